//! How the daemon fares, as the console shows it: the mount, and sealing.

use std::fmt::Write;

/// What the console is told. It names no object and no key, and no bucket but a mapped one whose directory is in trouble.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Why no request should be sent here now, one sentence each.
    pub troubles: Vec<String>,
    /// `None`: nothing is mounted.
    pub mount: Option<MountState>,
    /// ETags and checksums of files that nobody PUT.
    pub seal: SealState,
}

/// How the mount is.
#[derive(Clone, Debug)]
pub struct MountState {
    /// Where.
    pub place: String,
    /// Does it stand?
    pub is_up: bool,
    /// Does the kernel read and write the files itself?
    pub is_passthrough: bool,
    /// Open handles of files.
    pub files: usize,
    /// Open handles of directories.
    pub directories: usize,
}

/// How sealing is.
#[derive(Clone, Debug, Default)]
pub struct SealState {
    /// `off`, `written` or `all`.
    pub policy: &'static str,
    /// Files that wait.
    pub waiting: u64,
    /// Files that were sealed since the start.
    pub sealed: u64,
    /// Files that could not be.
    pub failed: u64,
    /// The pass over all that was there before still runs.
    pub passes: bool,
}

impl State {
    /// Writes it as JSON.
    pub(super) fn json(&self) -> String {
        let troubles: Vec<String> = self.troubles.iter().map(|cause| text(cause)).collect();
        let mount = self.mount.as_ref().map(|mount| {
            format!(
                "{{\"place\":{},\"up\":{},\"passthrough\":{},\"files\":{},\"directories\":{}}}",
                text(&mount.place),
                mount.is_up,
                mount.is_passthrough,
                mount.files,
                mount.directories
            )
        });
        let seal = &self.seal;
        format!(
            "{{\"troubles\":[{}],\"mount\":{},\"seal\":{{\"policy\":{},\"waiting\":{},\"sealed\":{},\"failed\":{},\"passes\":{}}}}}",
            troubles.join(","),
            mount.as_deref().unwrap_or("null"),
            text(seal.policy),
            seal.waiting,
            seal.sealed,
            seal.failed,
            seal.passes
        )
    }
}

/// A text as JSON writes it (RFC 8259, section 7).
pub(super) fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_json_whatever_a_path_holds() {
        let state = State {
            troubles: vec!["the mount on \"/a\\b\"\n is gone".to_owned()],
            mount: Some(MountState {
                place: "/mnt/ü\u{1}".to_owned(),
                is_up: false,
                is_passthrough: true,
                files: 1,
                directories: 2,
            }),
            seal: SealState {
                policy: "all",
                waiting: 3,
                sealed: 4,
                failed: 5,
                passes: true,
            },
        };
        assert_eq!(
            state.json(),
            r#"{"troubles":["the mount on \"/a\\b\"\u000a is gone"],"mount":{"place":"/mnt/ü\u0001","up":false,"passthrough":true,"files":1,"directories":2},"seal":{"policy":"all","waiting":3,"sealed":4,"failed":5,"passes":true}}"#
        );
        assert!(State::default().json().contains("\"mount\":null"));
    }
}
