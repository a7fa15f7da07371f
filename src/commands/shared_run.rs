//! A training run that several processes share.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arc_core::Error;
use arc_core::device::{DeviceKind, DeviceName};
use arc_core::train::{Role, RunConfig, Workers};

use crate::Failure;
use crate::args::{Global, Train};

/// The variable that the engine's thread pool obeys.
const THREADS: &str = "RAYON_NUM_THREADS";

/// This process's part in the run. Where it is told no rank, it starts the processes of the others.
pub(super) fn begin(global: &Global, args: &Train, config: &RunConfig, out: &Path) -> Result<Role, Failure> {
    let count = usize::from(args.processes);
    config.check_shared_by(count)?;
    let listen = |address: &str| {
        TcpListener::bind(address).map_err(|error| {
            Failure::failed(
                format!("cannot listen at `{address}`: {error}"),
                "name an address and a free port of this machine with `--leader HOST:PORT`",
            )
        })
    };
    if let (Some(rank), Some(leader)) = (args.rank, &args.leader) {
        let rank = usize::from(rank);
        return match rank {
            _ if rank >= count => Err(Failure::usage(
                format!("`--rank {rank}` is not below `--processes {count}`"),
                "ranks count from 0, and every process is told the same `--processes`",
            )),
            0 => Ok(Role::Leader { listener: listen(leader)?, count, workers: Workers::default() }),
            _ => Ok(Role::Follower { leader: leader.clone(), rank, count }),
        };
    }
    if count == 1 {
        return Ok(Role::Alone);
    }
    let DeviceName::One { kind, index } = global.device else {
        return Err(Failure::usage(
            "`--device auto` does not say which devices several processes take",
            "name the first of them, `--device cuda` for cuda:0, cuda:1 and so on",
        ));
    };
    let listener = listen(&format!("{}:0", Ipv4Addr::LOCALHOST))?;
    let leader = listener.local_addr().map_err(Error::io("listen for", out))?.to_string();
    let threads = threads_of_each(count);
    let mut workers = Workers::default();
    for rank in 1..count {
        let index = if kind == DeviceKind::Cpu { index } else { index + rank };
        let device = DeviceName::One { kind, index };
        let mut command = worker_command(global, args, out, rank, &leader, device)?;
        if let Some(threads) = threads {
            command.env(THREADS, threads.to_string());
        }
        let log = log_file(out, rank)?;
        // A run that is resumed goes on with its logs too.
        let file = File::options().create(true).append(true).open(&log);
        let file = file.map_err(Error::io("create", &log))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        workers.push(command.spawn().map_err(Error::io("start", "arc"))?);
    }
    if let Some(threads) = threads {
        // It fails where something has begun to compute, which then goes on as it is.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    Ok(Role::Leader { listener, count, workers })
}

/// How many threads each process takes of this machine's cores, unless the user says it.
fn threads_of_each(count: usize) -> Option<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var_os(THREADS).is_none().then_some((cores / count).max(1))
}

/// The log of a rank: beside the folder of the run, which has to be empty when it begins.
fn log_file(out: &Path, rank: usize) -> Result<PathBuf, Failure> {
    let out = std::path::absolute(out).map_err(Error::io("find", out))?;
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".rank-{rank}.log"));
    let log = out.with_file_name(name);
    let folder = log.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    Ok(log)
}

fn worker_command(
    global: &Global,
    args: &Train,
    out: &Path,
    rank: usize,
    leader: &str,
    device: DeviceName,
) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe().map_err(Error::io("find", "arc"))?);
    command.arg("train").arg(&args.config).arg("--out").arg(out);
    command.args(["--processes", &args.processes.to_string(), "--rank", &rank.to_string()]);
    command.args(["--leader", leader, "--device", &device.to_string(), "--yes"]);
    for registry in &global.registry {
        command.arg("--registry").arg(registry);
    }
    if let Some(start) = &args.start_from {
        command.arg("--start-from").arg(start);
    }
    if let Some(precision) = args.train_precision {
        command.args(["--train-precision", precision.name()]);
    }
    if let Some(hours) = args.decay_after {
        command.args(["--decay-after", &hours.to_string()]);
    }
    if let Some(steps) = args.steps {
        command.args(["--steps", &steps.to_string()]);
    }
    if global.force {
        command.arg("--force");
    }
    Ok(command)
}
