//! A server that says who it is and whom it sees, and its clients.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use kubelb_tests::netns::Namespace;
use kubelb_tests::wait;

/// What a client waits for an answer, when there should be one.
const PATIENCE: Duration = Duration::from_secs(2);
/// What it waits when there should be none.
const SILENCE: Duration = Duration::from_millis(300);
/// How long the proxies may take to know something on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Where every server listens.
pub(crate) const PORT: u16 = 8080;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

pub(crate) use Transport::{Tcp, Udp};

/// Serves both protocols and families until the process ends.
pub(crate) fn serve(namespace: &Namespace, name: &str) {
    let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let (tcp, udp) = namespace
        .run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()))
        .unwrap();
    let say = {
        let name = name.to_owned();
        move |client: SocketAddr| format!("{name} {}", client.ip().to_canonical())
    };
    let say_udp = say.clone();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            if let Ok(client) = stream.peer_addr() {
                drop(stream.write_all(say(client).as_bytes()));
            }
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, client)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(say_udp(client).as_bytes(), client));
        }
    });
}

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) server: String,
    pub(crate) client: IpAddr,
}

impl Answer {
    fn read(text: &str) -> io::Result<Self> {
        let (server, client) = text.split_once(' ').ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Self {
            server: server.to_owned(),
            client: client.parse().map_err(io::Error::other)?,
        })
    }
}

/// Asks once, from inside.
pub(crate) fn ask(from: &Namespace, transport: Transport, to: SocketAddr) -> io::Result<Answer> {
    ask_for(from, transport, to, PATIENCE)
}

fn ask_for(from: &Namespace, transport: Transport, to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    from.run(|| match transport {
        Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Answer::read(&text)
        }
        Udp => {
            let any: IpAddr = if to.is_ipv4() {
                [0, 0, 0, 0].into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            ask_again(&UdpSocket::bind(SocketAddr::new(any, 0))?, to, patience)
        }
    })
    .unwrap()
}

/// Asks on a socket that stays, as a UDP client with a flow does.
pub(crate) fn ask_again(socket: &UdpSocket, to: SocketAddr, patience: Duration) -> io::Result<Answer> {
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Answer::read(&String::from_utf8_lossy(&buffer[..length]))
}

/// Asks until it is answered as wanted.
pub(crate) fn soon(from: &Namespace, transport: Transport, to: SocketAddr, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let look = || {
        let answer = ask_for(from, transport, to, SILENCE)?;
        anyhow::ensure!(wanted(&answer), "{answer:?}");
        Ok(answer)
    };
    let found = wait::until(SOON, look);
    found.unwrap_or_else(|error| panic!("{transport:?} {to}: {error:#}")).0
}

/// Waits until nobody takes it; `refused` says how the client is told.
pub(crate) fn soon_nobody(from: &Namespace, transport: Transport, to: SocketAddr, refused: bool) {
    let look = || match ask_for(from, transport, to, SILENCE) {
        Ok(answer) => anyhow::bail!("{answer:?}"),
        Err(error) if refused == (error.kind() == io::ErrorKind::ConnectionRefused) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = wait::until(SOON, look) {
        panic!("{transport:?} {to}: {error:#}");
    }
}
