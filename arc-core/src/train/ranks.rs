//! Data-parallel training: several processes share the batches of each step and sum their
//! gradients.
//!
//! Every process, a *rank*, holds the whole model and draws the same plan for a step. Of the
//! `accumulation` batches of a step rank `r` of `n` takes those from `r·accumulation/n` on, so that
//! a run is the same whatever shares it. The sums go through host memory to rank 0, which adds them
//! in the order of ranks and sends the total back: the result does not depend on timing, and where
//! each rank takes one batch it is that of a single process to the last bit.
//!
//! The star of connections moves `2·(n−1)` times the trained parameters through rank 0 in a step:
//! for 28 million parameters and two ranks 225 MB. It works on every backend; burn's own collectives
//! exist for CUDA alone.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long rank 0 waits for the others, once it has its models, and how long they look for it.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// How long a rank waits for the others within a step: they read their models before the first, and
/// rank 0 measures and writes checkpoints while the others wait.
const STEP_PATIENCE: Duration = Duration::from_secs(3600);
/// How long a connection may take to say what it is.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// How long a process that this one started may take to end, once it is of no more use.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// How often a rank that found nobody at the address tries again.
const RETRY: Duration = Duration::from_millis(50);
/// What a connection begins with, so that something else that connects is not taken for a rank.
const GREETING: [u8; 8] = *b"arc-rank";
/// What rank 0 answers to one that it does not take.
const REFUSED: u64 = u64::MAX;
/// Values that are converted and sent at once.
const VALUES_AT_ONCE: usize = 1 << 14;

/// The part of this process in a run.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Role {
    /// It trains alone.
    #[default]
    Alone,
    /// It is rank 0, which measures and writes.
    Leader {
        /// Where the others come.
        listener: TcpListener,
        /// How many processes there are, this one among them.
        count: usize,
        /// The others, if this one started them.
        workers: Workers,
    },
    /// It is another rank. It reads rank 0's checkpoint, in a folder that they share.
    Follower {
        /// Where rank 0 is, `HOST:PORT`.
        leader: String,
        /// Its number, from 1.
        rank: usize,
        /// How many processes there are.
        count: usize,
    },
}

impl Role {
    /// How many processes share the run.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Leader { count, .. } | Self::Follower { count, .. } => *count,
        }
    }
}

/// The processes that this one started for the other ranks, rank 1 first. They end with it.
#[derive(Debug, Default)]
pub struct Workers(Vec<Child>);

impl Workers {
    /// Adds the next rank.
    pub fn push(&mut self, process: Child) {
        self.0.push(process);
    }

    /// The first rank that has ended, and how.
    fn ended(&mut self) -> Option<(usize, ExitStatus)> {
        let mut workers = self.0.iter_mut().enumerate();
        workers.find_map(|(index, worker)| Some((index + 1, worker.try_wait().ok()??)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let deadline = Instant::now() + END_PATIENCE;
        for worker in &mut self.0 {
            while Instant::now() < deadline && matches!(worker.try_wait(), Ok(None)) {
                std::thread::sleep(RETRY);
            }
            // One that has ended cannot be killed, which is as well.
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// What ranks have to agree on.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunIdentity<'a> {
    pub(super) config_sha256: &'a str,
    /// How many ranks there are.
    pub(super) count: usize,
}

impl RunIdentity<'_> {
    fn text(&self) -> String {
        format!("{} {}", self.config_sha256, self.count)
    }
}

/// One process among those that train together.
#[derive(Debug)]
pub(super) struct Ranks {
    rank: usize,
    /// For rank 0 the connections to ranks 1, 2, …; for another rank the one to rank 0.
    peers: Vec<TcpStream>,
    /// After the connections, by whose end they know that they are of no more use.
    workers: Workers,
    count: usize,
}

impl Ranks {
    /// A process on its own.
    pub(super) fn alone() -> Self {
        Self { rank: 0, peers: Vec::new(), workers: Workers::default(), count: 1 }
    }

    /// Rank 0: waits at `listener` until all others have come, and tells them how many steps were done.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if a rank does not come in time, comes twice, is of another run, or has ended,
    /// and if `stops` says so.
    pub(super) fn lead(
        listener: &TcpListener,
        run: RunIdentity<'_>,
        step: u64,
        workers: Workers,
        stops: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let mut ranks = Self { rank: 0, peers: Vec::new(), workers, count: run.count };
        ranks.peers =
            ranks.gather(listener, run, step, stops).map_err(|reason| Error::Ranks { rank: 0, reason })?;
        Ok(ranks)
    }

    fn gather(
        &mut self,
        listener: &TcpListener,
        run: RunIdentity<'_>,
        step: u64,
        stops: &dyn Fn() -> bool,
    ) -> Result<Vec<TcpStream>, String> {
        let failed = |error: std::io::Error| error.to_string();
        listener.set_nonblocking(true).map_err(failed)?;
        let deadline = Instant::now() + START_PATIENCE;
        let mut peers: Vec<Option<TcpStream>> = (1..run.count).map(|_| None).collect();
        while let Some(missing) = peers.iter().position(Option::is_none) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if let Some((rank, status)) = self.workers.ended() {
                        return Err(format!("rank {rank} ended before it began, with {status}"));
                    }
                    if stops() {
                        return Err("it was asked to stop before the others had come".into());
                    }
                    if Instant::now() > deadline {
                        return Err(format!("rank {} did not come in time", missing + 1));
                    }
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let mut stream = prepare(stream, GREETING_PATIENCE).map_err(failed)?;
            // What is no rank is left alone, so that a port scan does not end the run.
            let Ok((rank, theirs)) = read_greeting(&mut stream) else { continue };
            let known = (1..run.count).contains(&rank) && peers[rank - 1].is_none();
            let accepted = theirs == run.text() && known;
            let answer = if accepted { step } else { REFUSED };
            stream.write_all(&answer.to_le_bytes()).map_err(failed)?;
            if !accepted {
                return Err(format!("rank {rank} of another run, or one that is there already, came"));
            }
            peers[rank - 1] = Some(prepare(stream, STEP_PATIENCE).map_err(failed)?);
        }
        Ok(peers.into_iter().flatten().collect())
    }

    /// Another rank: connects to rank 0 at `leader`, and learns how many steps were done.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if rank 0 cannot be reached in time or refuses.
    pub(super) fn join(leader: &str, rank: usize, run: RunIdentity<'_>) -> Result<(Self, u64)> {
        let failed = |reason: String| Error::Ranks { rank, reason };
        let deadline = Instant::now() + START_PATIENCE;
        let stream = loop {
            match TcpStream::connect(leader) {
                // Before rank 0 listens, a socket on its machine may be given the very port that it asks for,
                // and is then connected to itself.
                Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(failed(format!("rank 0 cannot be reached at `{leader}`: {error}")));
                }
                _ => std::thread::sleep(RETRY),
            }
        };
        let mut stream = prepare(stream, STEP_PATIENCE).map_err(|error| failed(error.to_string()))?;
        // Rank 0 may have models to fetch first. If it ends, so does the connection.
        stream.set_read_timeout(None).map_err(|error| failed(error.to_string()))?;
        let mut answer = [0; 8];
        write_greeting(&mut stream, rank, &run.text())
            .and_then(|()| stream.read_exact(&mut answer))
            .map_err(|error| failed(format!("rank 0 does not answer: {error}")))?;
        let step = u64::from_le_bytes(answer);
        if step == REFUSED {
            return Err(failed("rank 0 trains with another configuration or number of processes".into()));
        }
        let stream = prepare(stream, STEP_PATIENCE).map_err(|error| failed(error.to_string()))?;
        Ok((Self { rank, peers: vec![stream], workers: Workers::default(), count: run.count }, step))
    }

    /// This process's number; 0 measures and writes.
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes train together.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Replaces `values` by their sums over all ranks, added in the order of ranks; the same bits
    /// on every rank.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if a rank is gone or has another number of values.
    pub(super) fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        let rank = self.rank;
        let done = if rank == 0 { self.sum_as_leader(values) } else { self.sum_as_follower(values) };
        done.map_err(|(peer, error)| Error::Ranks { rank, reason: lost(peer, &error) })
    }

    /// Whether all ranks have the same `digest`, which none should ever lack: they compute the same.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if one has another, or is gone.
    pub(super) fn check_same(&mut self, digest: &[u8; 32]) -> Result<()> {
        let failed = |reason: String| Error::Ranks { rank: self.rank, reason };
        let lost = |peer: usize| move |error: std::io::Error| lost(peer, &error);
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if self.rank > 0 {
                peer.write_all(digest).map_err(lost(0)).map_err(failed)?;
                continue;
            }
            let mut theirs = [0; 32];
            peer.read_exact(&mut theirs).map_err(lost(index + 1)).map_err(failed)?;
            if theirs != *digest {
                return Err(failed(format!("rank {} has other weights than rank 0", index + 1)));
            }
        }
        Ok(())
    }

    fn sum_as_leader(&mut self, values: &mut [f32]) -> Result<(), (usize, std::io::Error)> {
        for (index, peer) in self.peers.iter_mut().enumerate() {
            let lost = |error| (index + 1, error);
            read_count(peer, values.len()).map_err(lost)?;
            read_values(peer, values, |sum, value| *sum += value).map_err(lost)?;
        }
        for (index, peer) in self.peers.iter_mut().enumerate() {
            write_values(peer, values).map_err(|error| (index + 1, error))?;
        }
        Ok(())
    }

    fn sum_as_follower(&mut self, values: &mut [f32]) -> Result<(), (usize, std::io::Error)> {
        let lost = |error| (0, error);
        let leader = &mut self.peers[0];
        leader.write_all(&(values.len() as u64).to_le_bytes()).map_err(lost)?;
        write_values(leader, values).map_err(lost)?;
        read_values(leader, values, |own, sum| *own = sum).map_err(lost)
    }
}

fn lost(peer: usize, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            format!("no word from rank {peer} for {} minutes", STEP_PATIENCE.as_secs() / 60)
        }
        _ => format!("lost rank {peer}: {error}"),
    }
}

/// Sets a new connection up: small messages go at once, and nobody waits for ever.
fn prepare(stream: TcpStream, patience: Duration) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

fn write_greeting(stream: &mut TcpStream, rank: usize, run: &str) -> std::io::Result<()> {
    let mut greeting = GREETING.to_vec();
    greeting.extend((rank as u64).to_le_bytes());
    greeting.extend((run.len() as u64).to_le_bytes());
    greeting.extend(run.as_bytes());
    stream.write_all(&greeting)
}

fn read_greeting(stream: &mut TcpStream) -> std::io::Result<(usize, String)> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut head = [0; 24];
    stream.read_exact(&mut head)?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    // A sha256 in hexadecimal and a number is what a run is named by.
    if head[..8] != GREETING || number(16) > 96 {
        return Err(invalid());
    }
    let mut run = vec![0; number(16) as usize];
    stream.read_exact(&mut run)?;
    Ok((number(8) as usize, String::from_utf8(run).map_err(|_| invalid())?))
}

fn read_count(stream: &mut TcpStream, expected: usize) -> std::io::Result<()> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let found = u64::from_le_bytes(count);
    if found == expected as u64 {
        return Ok(());
    }
    Err(std::io::Error::other(format!("it has {found} values where {expected} are expected")))
}

/// Reads as many values as there are, and takes each into its place.
fn read_values(
    stream: &mut TcpStream,
    values: &mut [f32],
    take: impl Fn(&mut f32, f32),
) -> std::io::Result<()> {
    let mut bytes = vec![0; 4 * VALUES_AT_ONCE.min(values.len())];
    for part in values.chunks_mut(VALUES_AT_ONCE) {
        let bytes = &mut bytes[..4 * part.len()];
        stream.read_exact(bytes)?;
        for (place, bytes) in part.iter_mut().zip(bytes.chunks_exact(4)) {
            take(place, f32::from_le_bytes(bytes.try_into().expect("chunks of four")));
        }
    }
    Ok(())
}

fn write_values(stream: &mut TcpStream, values: &[f32]) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * VALUES_AT_ONCE.min(values.len()));
    for part in values.chunks(VALUES_AT_ONCE) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
        stream.write_all(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(listener: &TcpListener, run: &str, count: usize) -> Result<Ranks> {
        let run = RunIdentity { config_sha256: run, count };
        Ranks::lead(listener, run, 7, Workers::default(), &|| false)
    }

    fn join(leader: &str, rank: usize, run: &str, count: usize) -> Result<Ranks> {
        let (ranks, step) = Ranks::join(leader, rank, RunIdentity { config_sha256: run, count })?;
        assert_eq!(step, 7, "rank 0 says where the run is");
        Ok(ranks)
    }

    /// Runs `work` on each of `count` ranks in a thread of its own.
    fn on_ranks<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let (work, address) = (&work, &address);
            let leader = scope.spawn(move || work(lead(&listener, "run", count).expect("rank 0")));
            let others: Vec<_> = (1..count)
                .map(|rank| scope.spawn(move || work(join(address, rank, "run", count).expect("a rank"))))
                .collect();
            std::iter::once(leader).chain(others).map(|rank| rank.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn all_ranks_get_the_same_sums_in_the_order_of_ranks() {
        // More than one chunk, and values whose sum depends on the order.
        let len = VALUES_AT_ONCE + 7;
        let value = |rank: usize, at: usize| ((rank * 31 + at) as f32).sin() * 10f32.powi(rank as i32 * 4);
        let found = on_ranks(3, |mut ranks| {
            let rank = ranks.rank();
            let mut sums = Vec::new();
            for round in 0..3 {
                let mut values: Vec<f32> = (0..len).map(|at| value(rank, at + round)).collect();
                ranks.sum(&mut values).expect("a sum");
                sums.push(values);
            }
            sums
        });
        for (round, sums) in found[0].iter().enumerate() {
            for (at, &sum) in sums.iter().enumerate() {
                let expected = (value(0, at + round) + value(1, at + round)) + value(2, at + round);
                assert_eq!(sum.to_bits(), expected.to_bits(), "value {at} of round {round}");
            }
        }
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0], found[2]);
    }

    #[test]
    fn a_process_alone_keeps_its_values() {
        let mut values = [1.0, 2.0];
        Ranks::alone().sum(&mut values).expect("nothing to wait for");
        assert_eq!(values, [1.0, 2.0]);
    }

    #[test]
    fn ranks_of_different_runs_or_sizes_refuse_each_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| lead(&listener, "one run", 2).map(drop));
            let other = join(&address, 1, "another", 2).map(drop).unwrap_err().to_string();
            assert!(other.contains("another configuration"), "{other}");
            let leader = leader.join().expect("no panic").unwrap_err().to_string();
            assert!(leader.contains("rank 1 of another run"), "{leader}");
        });
        let errors = on_ranks(2, |mut ranks| {
            let mut values = vec![0.0; 3 + ranks.rank()];
            ranks.sum(&mut values).map(drop).unwrap_err().to_string()
        });
        assert!(errors[0].contains("it has 4 values where 3 are expected"), "{}", errors[0]);
        assert!(errors[1].contains("lost rank 0"), "{}", errors[1]);
    }

    #[test]
    fn ranks_that_count_otherwise_refuse_each_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| lead(&listener, "run", 2).map(drop));
            let other = join(&address, 1, "run", 4).map(drop).unwrap_err().to_string();
            assert!(other.contains("number of processes"), "{other}");
            assert!(leader.join().expect("no panic").is_err());
        });
    }

    #[cfg(unix)]
    #[test]
    fn a_worker_that_ends_before_it_comes_is_noticed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let worker = std::process::Command::new("false").spawn().expect("a process");
        let run = RunIdentity { config_sha256: "run", count: 2 };
        let begun = Instant::now();
        let error = Ranks::lead(&listener, run, 0, Workers(vec![worker]), &|| false)
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains("rank 1 ended before it began"), "{error}");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let error =
            Ranks::lead(&listener, run, 0, Workers::default(), &|| true).map(drop).unwrap_err().to_string();
        assert!(error.contains("asked to stop"), "{error}");
        assert!(begun.elapsed() < START_PATIENCE / 10);
    }

    #[test]
    fn what_is_no_rank_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| lead(&listener, "run", 2).map(|ranks| ranks.count()));
            let mut stranger = TcpStream::connect(&address).expect("a connection");
            stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            let rank = join(&address, 1, "run", 2).expect("rank 1");
            assert_eq!((rank.rank(), rank.count()), (1, 2));
            assert_eq!(leader.join().expect("no panic").expect("rank 0"), 2);
        });
    }
}
