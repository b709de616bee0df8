//! What `amqps://` puts on the wire. No broker is needed.

use countersign_amqp::Connection;
use countersign_protocol::Topology;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::support::soon;

/// The first byte of a TLS record that begins a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

#[tokio::test]
async fn amqps_never_goes_out_in_plain_text() {
    let said = first_words("amqps").await;
    assert_eq!(said[0], HANDSHAKE, "{said:02x?}");
    assert_ne!(&said[..4], b"AMQP");
}

#[tokio::test]
async fn amqp_does_as_asked() {
    assert_eq!(&first_words("amqp").await[..4], b"AMQP");
}

async fn first_words(scheme: &str) -> [u8; 8] {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("{scheme}://me:secret@localhost:{port}").parse().unwrap();
    let connection = Connection::start(address, "first words", Topology::default());
    let (mut peer, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut said = [0; 8];
    soon("the first bytes", peer.read_exact(&mut said)).await.unwrap();
    connection.close().await;
    said
}
