//! Multipart uploads without a second copy. The public shape is settled by its builder.
