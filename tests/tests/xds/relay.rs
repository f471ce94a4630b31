//! A way to the manager that can be narrowed to nothing in the middle of a response.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;

use crate::world::SOON;

/// Passes all on, unless told otherwise.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    /// Bytes that may still go from the manager to its peer.
    left: AtomicI64,
    stuck: AtomicBool,
    ended: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

const ALL: i64 = i64::MAX / 2;
/// Pause between two looks at whether there is anything to do.
const STEP: Duration = Duration::from_millis(5);

impl Relay {
    pub(crate) fn start(namespace: &Namespace, to: SocketAddr) -> Self {
        let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            to,
            left: AtomicI64::new(ALL),
            stuck: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let thread = namespace.spawn(move || accept(&listener, &accepting)).unwrap();
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// So many bytes more, and then nothing.
    pub(crate) fn let_pass(&self, bytes: i64) {
        self.shared.left.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn let_all_pass(&self) {
        self.shared.left.store(ALL, Ordering::SeqCst);
    }

    /// Waits until there is more to pass on than may pass.
    pub(crate) fn until_stuck(&self) {
        wait::until(SOON, || {
            anyhow::ensure!(self.shared.stuck.load(Ordering::SeqCst), "all has passed");
            Ok(())
        })
        .unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut *self.shared.threads.lock().unwrap());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        for thread in threads {
            drop(thread.join());
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            // The manager may be away: then the peer is told so by the end of its connection.
            Ok((peer, _)) => drop(connect(peer, shared)),
            Err(_nobody) => wait::pause(STEP),
        }
    }
}

fn connect(peer: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    let manager = TcpStream::connect(shared.to)?;
    peer.set_nonblocking(false)?;
    let ways = [(peer.try_clone()?, manager.try_clone()?, false), (manager, peer, true)];
    for (from, to, counted) in ways {
        for stream in [&from, &to] {
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            stream.set_nodelay(true)?;
        }
        let shared_by = Arc::clone(shared);
        let thread = std::thread::spawn(move || pass(&from, &to, counted, &shared_by));
        shared.threads.lock().unwrap().push(thread);
    }
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, counted: bool, shared: &Shared) {
    let mut buffer = [0; 4096];
    while !shared.ended.load(Ordering::SeqCst) {
        let some = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(some) => some,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                continue;
            }
            Err(_) => break,
        };
        let bytes = i64::try_from(some).unwrap();
        if counted && shared.left.fetch_sub(bytes, Ordering::SeqCst) < bytes {
            shared.stuck.store(true, Ordering::SeqCst);
            // What comes is lost with this connection; the next one may pass again.
            while !shared.ended.load(Ordering::SeqCst) && shared.left.load(Ordering::SeqCst) <= 0 {
                wait::pause(STEP);
            }
            break;
        }
        if to.write_all(&buffer[..some]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
