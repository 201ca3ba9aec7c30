//! The content half of the record: 64 bytes in `user.twintree`, its stamp, and its four verdicts.
