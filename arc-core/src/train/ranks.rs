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
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long ranks wait for one another to start: models are read meanwhile.
const START_PATIENCE: Duration = Duration::from_secs(600);
/// How long a rank waits for the others within a step. Rank 0 measures on held-out text and writes
/// checkpoints while the others wait.
const STEP_PATIENCE: Duration = Duration::from_secs(3600);
/// How often a rank that found nobody at the address tries again.
const RETRY: Duration = Duration::from_millis(50);
/// What a connection begins with, so that something else that connects is not taken for a rank.
const GREETING: [u8; 8] = *b"arc-rank";
/// Values that are converted and sent at once.
const VALUES_AT_ONCE: usize = 1 << 14;

/// The part of this process in a run.
#[derive(Debug, Default)]
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

/// One process among those that train together.
#[derive(Debug)]
pub(super) struct Ranks {
    rank: usize,
    /// For rank 0 the connections to ranks 1, 2, …; for another rank the one to rank 0.
    peers: Vec<TcpStream>,
    count: usize,
}

impl Ranks {
    /// A process on its own.
    pub(super) fn alone() -> Self {
        Self { rank: 0, peers: Vec::new(), count: 1 }
    }

    /// Rank 0 of `count`: waits at `listener` until all others have come.
    ///
    /// `run` is what all ranks must agree on, the sha256 of configuration and data.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if a rank does not come in time, comes twice, or is of another run.
    pub(super) fn lead(listener: &TcpListener, count: usize, run: &str) -> Result<Self> {
        let failed = |reason: String| Error::Ranks { rank: 0, reason };
        listener.set_nonblocking(true).map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + START_PATIENCE;
        let mut peers: Vec<Option<TcpStream>> = (1..count).map(|_| None).collect();
        while let Some(missing) = peers.iter().position(Option::is_none) {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return Err(failed(format!("rank {} did not start in time", missing + 1)));
                    }
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(error) => return Err(failed(error.to_string())),
            };
            let mut stream = prepare(stream).map_err(|error| failed(error.to_string()))?;
            // What is no rank is left alone, so that a port scan does not end the run.
            let Ok((rank, theirs)) = read_greeting(&mut stream) else { continue };
            let accepted = theirs == run && (1..count).contains(&rank) && peers[rank - 1].is_none();
            stream.write_all(&[u8::from(accepted)]).map_err(|error| failed(error.to_string()))?;
            if !accepted {
                return Err(failed(format!(
                    "rank {rank} of another run, or one that is there already, came"
                )));
            }
            peers[rank - 1] = Some(stream);
        }
        Ok(Self { rank: 0, peers: peers.into_iter().flatten().collect(), count })
    }

    /// Rank `rank` of `count`, which is not 0: connects to rank 0 at `leader`.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if rank 0 cannot be reached in time or refuses.
    pub(super) fn join(leader: &str, rank: usize, count: usize, run: &str) -> Result<Self> {
        let failed = |reason: String| Error::Ranks { rank, reason };
        let deadline = Instant::now() + START_PATIENCE;
        let stream = loop {
            match TcpStream::connect(leader) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(failed(format!("rank 0 cannot be reached at `{leader}`: {error}")));
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        };
        let mut stream = prepare(stream).map_err(|error| failed(error.to_string()))?;
        let mut accepted = [0];
        write_greeting(&mut stream, rank, run)
            .and_then(|()| stream.read_exact(&mut accepted))
            .map_err(|error| failed(format!("rank 0 does not answer: {error}")))?;
        if accepted == [0] {
            return Err(failed("rank 0 trains with another configuration or other data".into()));
        }
        Ok(Self { rank, peers: vec![stream], count })
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
        done.map_err(|(peer, error)| Error::Ranks { rank, reason: format!("lost rank {peer}: {error}") })
    }

    /// Whether all ranks have the same `digest`, which none should ever lack: they compute the same.
    ///
    /// # Errors
    ///
    /// [`Error::Ranks`] if one has another, or is gone.
    pub(super) fn check_same(&mut self, digest: &[u8; 32]) -> Result<()> {
        let failed = |reason: String| Error::Ranks { rank: self.rank, reason };
        let lost = |peer: usize| move |error: std::io::Error| format!("lost rank {peer}: {error}");
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
            let mut bytes = vec![0; 4 * VALUES_AT_ONCE.min(values.len())];
            for part in values.chunks_mut(VALUES_AT_ONCE) {
                let bytes = &mut bytes[..4 * part.len()];
                peer.read_exact(bytes).map_err(lost)?;
                for (value, bytes) in part.iter_mut().zip(bytes.chunks_exact(4)) {
                    *value += f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
                }
            }
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
        let mut bytes = vec![0; 4 * VALUES_AT_ONCE.min(values.len())];
        for part in values.chunks_mut(VALUES_AT_ONCE) {
            let bytes = &mut bytes[..4 * part.len()];
            leader.read_exact(bytes).map_err(lost)?;
            for (value, bytes) in part.iter_mut().zip(bytes.chunks_exact(4)) {
                *value = f32::from_le_bytes(bytes.try_into().expect("chunks of four"));
            }
        }
        Ok(())
    }
}

/// Sets a new connection up: small messages go at once, and nobody waits for ever.
fn prepare(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STEP_PATIENCE))?;
    stream.set_write_timeout(Some(STEP_PATIENCE))?;
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
    // A sha256 in hexadecimal, and nothing longer, is what a run is named by.
    if head[..8] != GREETING || number(16) > 64 {
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

    /// Runs `work` on each of `count` ranks in a thread of its own.
    fn on_ranks<T: Send>(count: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let (work, address) = (&work, &address);
            let leader = scope.spawn(move || work(Ranks::lead(&listener, count, "run").expect("rank 0")));
            let others: Vec<_> = (1..count)
                .map(|rank| {
                    scope.spawn(move || work(Ranks::join(address, rank, count, "run").expect("a rank")))
                })
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
            let leader = scope.spawn(|| Ranks::lead(&listener, 2, "one run").map(drop));
            let other = Ranks::join(&address, 1, 2, "another").map(drop).unwrap_err().to_string();
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
    fn what_is_no_rank_is_passed_over() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::scope(|scope| {
            let leader = scope.spawn(|| Ranks::lead(&listener, 2, "run").map(|ranks| ranks.count()));
            let mut stranger = TcpStream::connect(&address).expect("a connection");
            stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            let rank = Ranks::join(&address, 1, 2, "run").expect("rank 1");
            assert_eq!((rank.rank(), rank.count()), (1, 2));
            assert_eq!(leader.join().expect("no panic").expect("rank 0"), 2);
        });
    }
}
