//! What the store, the watcher, the mount and the runtime say in `/metrics`.

use twintree_fuse::{CallTally, Mount};
use twintree_gateway::meter::{Exposition, Kind};
use twintree_gateway::pool;
use twintree_store::{BATCHES, SyncTallies};

use super::Overseer;

/// Writes all of it.
pub fn write(overseer: &Overseer, out: &mut Exposition) {
    out.head(
        Kind::Gauge,
        "twintree_build_info",
        "Always 1; the label says which build runs.",
    );
    out.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.one(
        Kind::Gauge,
        "twintree_connections_limit",
        "Connections that are accepted at once.",
        overseer.most_connections,
    );
    runtime(out);
    works(out);
    seal(overseer, out);
    commit(overseer, out);
    watch(overseer, out);
    mount(overseer, out);
}

fn runtime(out: &mut Exposition) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return;
    };
    let runtime = runtime.metrics();
    out.one(
        Kind::Gauge,
        "twintree_tasks",
        "Tasks of the runtime that have not ended: connections, and work beside them.",
        runtime.num_alive_tasks(),
    );
    out.one(
        Kind::Gauge,
        "twintree_tasks_queued",
        "Tasks that wait for a thread of the runtime in the queue that all share.",
        runtime.global_queue_depth(),
    );
}

fn works(out: &mut Exposition) {
    let tallies = pool::tallies();
    out.one(
        Kind::Gauge,
        "twintree_pool_queued",
        "Works of requests that may wait for a disk and wait for a thread of the pool that does them.",
        tallies.waiting,
    );
    out.one(
        Kind::Gauge,
        "twintree_pool_running",
        "Works of requests that a thread of that pool is at.",
        tallies.running,
    );
    out.one(
        Kind::Counter,
        "twintree_pool_works_total",
        "Works of requests that were handed to that pool.",
        tallies.total,
    );
}

fn seal(overseer: &Overseer, out: &mut Exposition) {
    let tallies = overseer.store.seal_tallies();
    out.head(
        Kind::Counter,
        "twintree_seal_files_total",
        "Files that were looked at to make or check ETag and checksum, by outcome.",
    );
    for (outcome, count) in [
        ("sealed", tallies.sealed),
        ("valid", tallies.valid),
        ("busy", tallies.busy),
        ("skipped", tallies.skipped),
        ("failed", tallies.failed),
    ] {
        out.sample("", &[("outcome", outcome)], count);
    }
    out.one(
        Kind::Counter,
        "twintree_seal_bytes_total",
        "Bytes that were read to seal files.",
        tallies.bytes,
    );
    out.head(
        Kind::Gauge,
        "twintree_seal_queue_files",
        "Files that wait to be sealed, by why: a record in doubt, written shortly ago, somebody is at them.",
    );
    for (why, count) in [
        ("doubted", tallies.waiting_doubted),
        ("written", tallies.waiting_written),
        ("busy", tallies.waiting_busy),
    ] {
        out.sample("", &[("why", why)], count);
    }
    let background = overseer.background.upgrade();
    out.one(
        Kind::Gauge,
        "twintree_seal_pass_running",
        "1 while the pass over all files that were there before runs (seal = all).",
        u8::from(background.is_some_and(|background| background.passes())),
    );
}

fn commit(overseer: &Overseer, out: &mut Exposition) {
    let tallies = overseer.store.commit_tallies();
    out.head(
        Kind::Histogram,
        "twintree_commit_batch_size",
        "Of how many files or directories one sync was the last word, by call.",
    );
    let mut call = |call, SyncTallies { calls, served }: SyncTallies| {
        let ends = BATCHES.iter().map(|end| *end as f64);
        out.histogram(&[("call", call)], ends, &calls, served);
    };
    call("fsync_file", tallies.file);
    call("fsync_directory", tallies.directory);
    call("syncfs", tallies.filesystem);
}

fn watch(overseer: &Overseer, out: &mut Exposition) {
    let background = overseer.background.upgrade();
    let Some(coverage) = background.and_then(|background| background.coverage()) else {
        return;
    };
    out.one(
        Kind::Counter,
        "twintree_watch_overflows_total",
        "How often more changed in the tree than could be followed, and all of it was looked at again.",
        coverage.overflows,
    );
    out.head(
        Kind::Gauge,
        "twintree_watch_directories",
        "Directories of the tree, by coverage: watched, waiting for a watch, left out for want of watches.",
    );
    for (state, count) in [
        ("watched", coverage.watched),
        ("waiting", coverage.waiting),
        ("left_out", coverage.left_out),
    ] {
        out.sample("", &[("state", state)], count);
    }
}

fn mount(overseer: &Overseer, out: &mut Exposition) {
    let Some((files, directories, nodes)) = overseer.of_mount(Mount::open) else {
        return;
    };
    let is_there = overseer.of_mount(|mount| mount.trouble().is_none());
    out.one(
        Kind::Gauge,
        "twintree_mount_up",
        "1 while the mount stands.",
        u8::from(is_there == Some(true)),
    );
    out.head(
        Kind::Gauge,
        "twintree_mount_open",
        "What programs have open in the mount, by kind.",
    );
    out.sample("", &[("kind", "file")], files);
    out.sample("", &[("kind", "directory")], directories);
    out.one(
        Kind::Gauge,
        "twintree_mount_nodes",
        "Files and directories that the kernel remembers of the mount.",
        nodes,
    );
    mount_calls(overseer, out);
}

fn mount_calls(overseer: &Overseer, out: &mut Exposition) {
    let Some(tallies) = overseer.of_mount(Mount::calls) else {
        return;
    };
    out.head(
        Kind::Counter,
        "twintree_mount_calls_total",
        "Calls of the kernel that were answered, by operation of fuse(4) and outcome: ok, or the error.",
    );
    for CallTally { name, outcomes, .. } in &tallies.calls {
        for (outcome, count) in outcomes {
            out.sample("", &[("operation", name), ("outcome", outcome)], count);
        }
    }
    out.head(
        Kind::Histogram,
        "twintree_mount_call_duration_seconds",
        "From a call of the kernel to its answer.",
    );
    for tally in &tallies.calls {
        let labels = [("operation", tally.name)];
        out.histogram(&labels, CallTally::ends(), &tally.durations, tally.seconds);
    }
    out.head(
        Kind::Counter,
        "twintree_mount_bytes_total",
        "Bytes that programs in the mount read and wrote through the daemon, by direction; passthrough is the kernel's alone.",
    );
    out.sample("", &[("direction", "read")], tallies.read);
    out.sample("", &[("direction", "written")], tallies.written);
}
