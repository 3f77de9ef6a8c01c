//! Hears questions over UDP and TCP, and brings the answers back.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Transport, read_message, write_message};

/// How long a TCP client may be silent, or take for an answer.
const IDLE: Duration = Duration::from_secs(10);

/// Knows the answers.
pub trait Answers: Send + Sync + 'static {
    /// `None`: nothing to be answered.
    fn answer(&self, query: &[u8], transport: Transport) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// Never ends; when it is dropped, so is all that it began.
pub async fn serve(answers: Arc<impl Answers>, udp: UdpSocket, tcp: TcpListener, connections_max: usize) {
    serve_until(answers, udp, tcp, connections_max, std::future::pending()).await;
}

/// Until `stop`: somebody else reads the sockets from then on. Ends when what was read by then is answered, and its connections
/// have ended.
pub async fn serve_until(
    answers: Arc<impl Answers>,
    udp: UdpSocket,
    tcp: TcpListener,
    connections_max: usize,
    stop: impl Future<Output = ()>,
) {
    let (stopped, told) = watch::channel(false);
    let serving = async {
        tokio::join!(
            serve_udp(&answers, Arc::new(udp), told.clone()),
            serve_tcp(&answers, tcp, connections_max, told.clone())
        )
    };
    let stop = async {
        stop.await;
        stopped.send_replace(true);
        // The channel's end would wake them for ever.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = serving => {}
        () = stop => {}
    }
}

async fn serve_udp(answers: &Arc<impl Answers>, socket: Arc<UdpSocket>, mut stop: watch::Receiver<bool>) {
    let mut buffer = vec![0; 4096];
    let mut tasks = JoinSet::new();
    loop {
        let received = tokio::select! {
            biased;
            _ = stop.changed() => break,
            Some(_) = tasks.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        // An error tells of an earlier answer that nobody took.
        let Ok((length, client)) = received else { continue };
        let query = buffer[..length].to_vec();
        let (answers, socket) = (answers.clone(), socket.clone());
        tasks.spawn(async move {
            if let Some(answer) = answers.answer(&query, Transport::Udp).await {
                // A client that is gone needs none.
                let _ = socket.send_to(&answer, client).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn serve_tcp(
    answers: &Arc<impl Answers>,
    listener: TcpListener,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            accepted = listener.accept(), if connections.len() < connections_max => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve_connection(answers.clone(), stream))),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    // Whoever still asks for a connection asks the other one.
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection(answers: Arc<impl Answers>, mut stream: TcpStream) {
    loop {
        let Ok(Ok(query)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await else { return };
        let Some(answer) = answers.answer(&query, Transport::Tcp).await else { return };
        if !matches!(tokio::time::timeout(IDLE, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use vocab::dns::{self, Code, Question, Record};

    use super::*;
    use crate::ask;

    /// Answers every question with one address, and with nothing what is called `silent`.
    struct One;

    impl Answers for One {
        async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
            let question = Question::parse(query)?;
            let by = match transport {
                Transport::Udp => 1,
                Transport::Tcp => 2,
            };
            let record = Record::Address(Ipv4Addr::new(192, 0, 2, by).into());
            (question.name != "silent").then(|| dns::answer(query, &question, Code::Fine, &[record], 512))
        }
    }

    async fn server() -> (JoinSet<()>, SocketAddr) {
        // The same port for both: another process may have taken one of them.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(Arc::new(One), udp, tcp, 8));
        (tasks, address)
    }

    fn addresses(answer: Option<Vec<u8>>) -> Vec<String> {
        let found = dns::addresses_in(&answer.expect("an answer"));
        found.into_iter().map(|(_, address)| address.to_string()).collect()
    }

    #[tokio::test]
    async fn what_is_asked_is_answered_by_the_same_transport_with_the_askers_number() {
        let (_server, address) = server().await;
        for (transport, expected) in [(Transport::Udp, "192.0.2.1"), (Transport::Tcp, "192.0.2.2")] {
            let query = dns::query(4711, "name.example", dns::A);
            let question = Question::parse(&query).unwrap();
            let answer = ask(&[address], &query, &question, transport).await;
            assert_eq!(answer.as_ref().map(|bytes| bytes[..2].to_vec()), Some(4711_u16.to_be_bytes().to_vec()));
            assert_eq!(addresses(answer), [expected]);
        }
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_one_does_not_answer() {
        let (_server, address) = server().await;
        let nobody = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let query = dns::query(1, "name.example", dns::A);
        let question = Question::parse(&query).unwrap();
        assert_eq!(addresses(ask(&[nobody, address], &query, &question, Transport::Udp).await), ["192.0.2.1"]);
        let query = dns::query(1, "silent", dns::A);
        let question = Question::parse(&query).unwrap();
        assert_eq!(ask(&[address], &query, &question, Transport::Tcp).await, None);
    }

    /// Two that read one socket in turn, as an engine and who stands in for it do.
    #[tokio::test]
    async fn who_stops_answers_what_it_has_read_and_leaves_the_rest() {
        let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        udp.set_nonblocking(true).unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let own = UdpSocket::from_std(udp.try_clone().unwrap()).unwrap();
        let first = tokio::spawn(serve_until(Arc::new(One), own, tcp, 8, async { drop(stopped.await) }));
        let query = dns::query(1, "name.example", dns::A);
        let question = Question::parse(&query).unwrap();
        assert!(ask(&[address], &query, &question, Transport::Udp).await.is_some());
        drop(stop);
        first.await.unwrap();
        // Asked while nobody reads, and answered by the next one.
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.send_to(&query, address).await.unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let _next = JoinSet::from_iter([serve(Arc::new(One), UdpSocket::from_std(udp).unwrap(), tcp, 8)]);
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer).await.unwrap();
        assert!(question.is_answered_by(1, &buffer[..length]));
    }

    #[tokio::test]
    async fn a_connection_takes_several_questions_and_a_broken_one_ends_it_alone() {
        let (_server, address) = server().await;
        let mut broken = TcpStream::connect(address).await.unwrap();
        write_message(&mut broken, b"no question").await.unwrap();
        assert!(read_message(&mut broken).await.is_err());
        let mut stream = TcpStream::connect(address).await.unwrap();
        for id in [1, 2] {
            let query = dns::query(id, "name.example", dns::A);
            write_message(&mut stream, &query).await.unwrap();
            let answer = read_message(&mut stream).await.unwrap();
            assert!(Question::parse(&query).unwrap().is_answered_by(id, &answer));
        }
    }
}
