//! The relay over UDP, TCP and TLS, with the client that nodes use and credentials from XEP-0215.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::udp::TurnClientUdp;
use turn_types::stun::TransportType;
use turn_types::transmit::TransmitBuild;
use turn_types::{AddressFamily, TurnCredentials};

use super::super::link::Wire;
use super::super::{channel_data, frame_length};
use super::*;

/// The client writes and reads ChannelData on streams without the padding that RFC 8656 section 12.5
/// demands; a real server (ours, coturn) would lose the frames' borders. So the pipe pads and strips.
enum Pipe {
    Udp(UdpSocket),
    Stream(Box<dyn Wire>, Vec<u8>),
}

impl Pipe {
    async fn send(&mut self, bytes: &[u8]) {
        match self {
            Pipe::Udp(socket) => socket.send(bytes).await.map(|_| ()).unwrap(),
            Pipe::Stream(stream, _) => {
                let mut padded = bytes.to_vec();
                padded.resize(bytes.len().next_multiple_of(4), 0);
                stream.write_all(&padded).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }

    /// One datagram or one frame of the stream. Safe to cancel.
    async fn receive(&mut self) -> Vec<u8> {
        match self {
            Pipe::Udp(socket) => {
                let mut bytes = Vec::with_capacity(4096);
                socket.recv_buf(&mut bytes).await.unwrap();
                bytes
            }
            Pipe::Stream(stream, waiting) => loop {
                if let Some(length) = frame_length(waiting).unwrap().filter(|l| waiting.len() >= *l) {
                    let frame: Vec<u8> = waiting.drain(..length).collect();
                    let bare = channel_data(&frame).map(|(_, data)| 4 + data.len());
                    return frame[..bare.unwrap_or(length)].to_vec();
                }
                assert_ne!(stream.read_buf(waiting).await.unwrap(), 0, "the server hung up");
            },
        }
    }
}

/// A TURN client and its socket.
struct Turner<C> {
    client: C,
    pipe: Pipe,
    start: Instant,
    heard: Vec<Vec<u8>>,
}

impl<C: TurnClientApi> Turner<C> {
    fn new(client: C, pipe: Pipe) -> Self {
        Turner {
            client,
            pipe,
            start: Instant::now(),
            heard: Vec::new(),
        }
    }

    fn now(&self) -> turn_types::Instant {
        turn_types::Instant::from_std(self.start)
    }

    /// Runs until something happens that `wanted` accepts.
    async fn until<T>(&mut self, wanted: impl Fn(&TurnEvent) -> Option<T>) -> T {
        let work = async {
            loop {
                while let Some(event) = self.client.poll_event() {
                    if let Some(found) = wanted(&event) {
                        return found;
                    }
                }
                self.step().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), work)
            .await
            .expect("the TURN server says nothing")
    }

    async fn until_heard(&mut self) -> Vec<u8> {
        let work = async {
            while self.heard.is_empty() {
                self.step().await;
            }
            self.heard.remove(0)
        };
        tokio::time::timeout(Duration::from_secs(20), work)
            .await
            .expect("nothing was relayed")
    }

    async fn step(&mut self) {
        let deadline = match self.client.poll(self.now()) {
            TurnPollRet::WaitUntil(deadline) => deadline,
            other => panic!("{other:?}"),
        };
        while let Some(transmit) = self.client.poll_transmit(self.now()) {
            self.pipe.send(&transmit.data).await;
        }
        let wait = deadline.saturating_duration_since(self.now());
        if let Ok(bytes) = tokio::time::timeout(wait, self.pipe.receive()).await {
            let (local, remote, kind) = (
                self.client.local_addr(),
                self.client.remote_addr(),
                self.client.transport(),
            );
            let transmit = turn_client_proto::api::Transmit::new(bytes, kind, remote, local);
            if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, self.now()) {
                self.heard.push(data.data().to_vec());
            }
            while let Some(data) = self.client.poll_recv(self.now()) {
                self.heard.push(data.data().to_vec());
            }
        }
    }

    async fn allocated(&mut self) -> SocketAddr {
        self.until(|event| match event {
            TurnEvent::AllocationCreated(_, address) => Some(*address),
            TurnEvent::AllocationCreateFailed(family) => panic!("no allocation for {family}"),
            _ => None,
        })
        .await
    }

    async fn permit(&mut self, ip: IpAddr) -> bool {
        self.client
            .create_permission(TransportType::Udp, ip, self.now())
            .unwrap();
        self.until(|event| match event {
            TurnEvent::PermissionCreated(..) => Some(true),
            TurnEvent::PermissionCreateFailed(..) => Some(false),
            _ => None,
        })
        .await
    }

    async fn send(&mut self, to: SocketAddr, data: &[u8]) {
        let transmit = self
            .client
            .send_to(TransportType::Udp, to, data.to_vec(), self.now())
            .unwrap();
        let bytes = transmit
            .map(TransmitBuild::build)
            .expect("a message for the server")
            .data;
        self.pipe.send(&bytes).await;
    }
}

/// What the server offers by XEP-0215, for one kind and transport.
async fn offered(house: &House, kind: &str, transport: &str) -> (SocketAddr, TurnConfig) {
    let mut ann = house.member("ann").await;
    let answer = ann.ask(DOMAIN, "get", "<services xmlns='urn:xmpp:extdisco:2'/>").await;
    let services = answer.elements().next().unwrap();
    let fits = |s: &&Element| s.attr("type") == Some(kind) && s.attr("transport") == Some(transport);
    let service = services.elements().find(fits).unwrap();
    let value = |name| service.attr(name).unwrap();
    let address = format!("{}:{}", value("host"), value("port")).parse().unwrap();
    let mut config = TurnConfig::new(TurnCredentials::new(value("username"), value("password")));
    config.set_address_family(AddressFamily::IPV4);
    (address, config)
}

async fn loopback_house() -> House {
    House::open_with(Scratch::new(), |config| config.turn.allow_loopback_peers = true).await
}

async fn udp_turner(house: &House) -> Turner<TurnClientUdp> {
    let (server, config) = offered(house, "turn", "udp").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    let client = TurnClientUdp::allocate(socket.local_addr().unwrap(), server, config);
    Turner::new(client, Pipe::Udp(socket))
}

async fn tcp_turner(house: &House, tls: bool) -> Turner<TurnClientTcp> {
    let (server, config) = offered(house, if tls { "turns" } else { "turn" }, "tcp").await;
    let stream = TcpStream::connect(server).await.unwrap();
    let local = stream.local_addr().unwrap();
    let wire: Box<dyn Wire> = match tls {
        true => Box::new(
            house
                .tls()
                .connect(ServerName::try_from(DOMAIN).unwrap(), stream)
                .await
                .unwrap(),
        ),
        false => Box::new(stream),
    };
    Turner::new(
        TurnClientTcp::allocate(local, server, config),
        Pipe::Stream(wire, Vec::new()),
    )
}

/// Allocates, then relays both ways: with indications first, then over a channel.
async fn relays_both_ways<C: TurnClientApi>(mut turner: Turner<C>) {
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let peer_address = peer.local_addr().unwrap();
    let relayed = turner.allocated().await;
    assert_eq!(relayed.ip(), peer_address.ip());
    assert!(turner.permit(peer_address.ip()).await);
    exchange(&mut turner, &peer, relayed, b"by indication").await;
    turner
        .client
        .bind_channel(TransportType::Udp, peer_address, turner.now())
        .unwrap();
    turner
        .until(|event| matches!(event, TurnEvent::ChannelCreated(..)).then_some(()))
        .await;
    // 13 and 1201 bytes: padded on streams.
    exchange(&mut turner, &peer, relayed, b"by a channel!").await;
    exchange(&mut turner, &peer, relayed, &[7; 1201]).await;
}

async fn exchange<C: TurnClientApi>(turner: &mut Turner<C>, peer: &UdpSocket, relayed: SocketAddr, data: &[u8]) {
    turner.send(peer.local_addr().unwrap(), data).await;
    let mut buffer = [0; 2000];
    let received = tokio::time::timeout(Duration::from_secs(20), peer.recv_from(&mut buffer)).await;
    let (length, from) = received.expect("nothing was relayed").unwrap();
    assert_eq!((&buffer[..length], from), (data, relayed));
    peer.send_to(data, relayed).await.unwrap();
    assert_eq!(turner.until_heard().await, data);
}

#[tokio::test]
async fn relays_over_udp() {
    let house = loopback_house().await;
    relays_both_ways(udp_turner(&house).await).await;
}

#[tokio::test]
async fn relays_over_tcp() {
    let house = loopback_house().await;
    relays_both_ways(tcp_turner(&house, false).await).await;
}

#[tokio::test]
async fn relays_over_tls() {
    let house = loopback_house().await;
    relays_both_ways(tcp_turner(&house, true).await).await;
}

/// Sends datagrams with one system call where the kernel can cut them.
fn send_train(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = quinn_udp::UdpSocketState::new((&other).into()).unwrap();
    let send = |contents: &[u8], segment_size| {
        let transmit = quinn_udp::Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        state.try_send(socket.into(), &transmit).unwrap();
    };
    match state.max_gso_segments() {
        1 => datagrams.iter().for_each(|datagram| send(datagram, None)),
        _ => send(&datagrams.concat(), Some(datagrams[0].len())),
    }
}

#[tokio::test]
async fn datagrams_that_come_together_keep_their_borders_and_their_order() {
    let house = loopback_house().await;
    let mut turner = udp_turner(&house).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let peer_address = peer.local_addr().unwrap();
    let relayed = turner.allocated().await;
    let now = turner.now();
    turner
        .client
        .bind_channel(TransportType::Udp, peer_address, now)
        .unwrap();
    turner
        .until(|event| matches!(event, TurnEvent::ChannelCreated(..)).then_some(()))
        .await;
    let mut datagrams: Vec<Vec<u8>> = (0..40).map(|number| vec![number; 1200]).collect();
    datagrams.push(vec![40; 701]);
    send_train(&peer, relayed, &datagrams);
    for datagram in &datagrams {
        assert_eq!(turner.until_heard().await, *datagram);
    }
    let mut wrapped = Vec::new();
    for datagram in &datagrams {
        let message = turner
            .client
            .send_to(TransportType::Udp, peer_address, datagram.clone(), now)
            .unwrap();
        wrapped.push(message.map(TransmitBuild::build).unwrap().data);
    }
    let Pipe::Udp(socket) = &turner.pipe else {
        panic!("over UDP");
    };
    send_train(socket, house.running.udp[0], &wrapped);
    for datagram in &datagrams {
        let mut buffer = [0; 2000];
        let received = tokio::time::timeout(Duration::from_secs(20), peer.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("nothing was relayed").unwrap();
        assert_eq!((&buffer[..length], from), (&datagram[..], relayed));
    }
}

#[tokio::test]
async fn peers_on_loopback_are_refused_by_default() {
    let house = House::open().await;
    let mut turner = udp_turner(&house).await;
    turner.allocated().await;
    assert!(!turner.permit("127.0.0.1".parse().unwrap()).await);
    assert!(turner.permit("192.0.2.1".parse().unwrap()).await);
}

#[tokio::test]
async fn two_clients_meet_at_their_relays() {
    let house = loopback_house().await;
    let mut one = udp_turner(&house).await;
    let relay_one = one.allocated().await;
    // The same account again, over another transport.
    let (server, config) = {
        let mut bob = house.member("bob").await;
        let asked = "<credentials xmlns='urn:xmpp:extdisco:2'><service type='turn' transport='tcp' host='127.0.0.1'/></credentials>";
        let answer = bob.ask(DOMAIN, "get", asked).await;
        let service = answer.elements().next().unwrap().elements().next().unwrap().clone();
        let value = |name| service.attr(name).unwrap();
        let mut config = TurnConfig::new(TurnCredentials::new(value("username"), value("password")));
        config.set_address_family(AddressFamily::IPV4);
        (
            format!("{}:{}", value("host"), value("port"))
                .parse::<SocketAddr>()
                .unwrap(),
            config,
        )
    };
    let stream = TcpStream::connect(server).await.unwrap();
    let client = TurnClientTcp::allocate(stream.local_addr().unwrap(), server, config);
    let mut two = Turner::new(client, Pipe::Stream(Box::new(stream), Vec::new()));
    let relay_two = two.allocated().await;
    assert!(one.permit(relay_two.ip()).await && two.permit(relay_one.ip()).await);
    one.send(relay_two, b"from one").await;
    assert_eq!(two.until_heard().await, b"from one");
    two.send(relay_one, b"from two").await;
    assert_eq!(one.until_heard().await, b"from two");
}

/// A Binding request, if wanted with CHANGE-REQUEST; gives where the answer came from and whom it saw, or the error's code.
async fn bound(socket: &UdpSocket, server: SocketAddr, change: Option<u8>) -> (SocketAddr, Result<SocketAddr, u16>) {
    use stun_proto::types::attribute::{AttributeType, ErrorCode, RawAttribute, XorMappedAddress};
    use stun_proto::types::message::{BINDING, Message, MessageWriteVec};
    use stun_proto::types::prelude::*;
    let mut request = Message::builder_request(BINDING, MessageWriteVec::new());
    if let Some(flags) = change {
        let change = RawAttribute::new(AttributeType::new(3), &[0, 0, 0, flags]).into_owned();
        request.add_attribute(&change).unwrap();
    }
    socket.send_to(&request.finish(), server).await.unwrap();
    let mut buffer = [0; 500];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    let answer = Message::from_bytes(&buffer[..length]).unwrap();
    let mapped = answer.attribute::<XorMappedAddress>();
    let mapped = mapped.map(|mapped| mapped.addr(answer.transaction_id()));
    (
        from,
        mapped.map_err(|_| answer.attribute::<ErrorCode>().unwrap().code()),
    )
}

#[tokio::test]
async fn a_binding_request_needs_no_account_and_can_ask_for_the_other_port() {
    let house = House::open().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    let main = house.running.udp[0];
    let second = SocketAddr::new(main.ip(), house.running.udp_second.unwrap());
    assert!(second.port() > main.port(), "clients keep to the lowest");
    for (asked, other) in [(main, second), (second, main)] {
        assert_eq!(bound(&socket, asked, None).await, (asked, Ok(own)));
        assert_eq!(bound(&socket, asked, Some(0)).await, (asked, Ok(own)));
        assert_eq!(bound(&socket, asked, Some(2)).await, (other, Ok(own)));
        assert_eq!(bound(&socket, asked, Some(6)).await, (asked, Err(420)));
    }
}

#[tokio::test]
async fn the_second_port_is_offered_for_stun_and_speaks_nothing_else() {
    let house = House::open().await;
    let mut ann = house.member("ann").await;
    let asked = "<services xmlns='urn:xmpp:extdisco:2' type='stun'/>";
    let answer = ann.ask(DOMAIN, "get", asked).await;
    let services = answer.elements().next().unwrap().elements();
    let ports: Vec<u16> = services.map(|s| s.attr("port").unwrap().parse().unwrap()).collect();
    let second = house.running.udp_second.unwrap();
    assert_eq!(ports, [house.running.udp[0].port(), second]);
    // An Allocate request, which the main port would challenge: the next answer is the Binding's.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let allocate = [&[0, 3, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[6; 12]].concat();
    let second = SocketAddr::new(house.running.udp[0].ip(), second);
    socket.send_to(&allocate, second).await.unwrap();
    assert_eq!(
        bound(&socket, second, None).await,
        (second, Ok(socket.local_addr().unwrap()))
    );
}

#[tokio::test]
async fn all_lengths_to_the_udp_socket_are_survived() {
    let house = House::open().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(house.running.udp[0]).await.unwrap();
    for first in [0x00, 0x01, 0x40, 0x80, 0xff] {
        for length in 0..96usize {
            let mut bytes = vec![0xff; length];
            bytes.iter_mut().take(1).for_each(|b| *b = first);
            socket.send(&bytes).await.unwrap();
        }
    }
    let mut ann = house.member("ann").await;
    ann.settle().await;
    udp_turner_for(&house, &mut ann).await.allocated().await;
}

async fn udp_turner_for(house: &House, guest: &mut Guest) -> Turner<TurnClientUdp> {
    let answer = guest
        .ask(DOMAIN, "get", "<services xmlns='urn:xmpp:extdisco:2' type='turn'/>")
        .await;
    let service = answer.elements().next().unwrap().elements().next().unwrap().clone();
    let value = |name| service.attr(name).unwrap();
    let mut config = TurnConfig::new(TurnCredentials::new(value("username"), value("password")));
    config.set_address_family(AddressFamily::IPV4);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(house.running.udp[0]).await.unwrap();
    let client = TurnClientUdp::allocate(socket.local_addr().unwrap(), house.running.udp[0], config);
    Turner::new(client, Pipe::Udp(socket))
}
