//! A very small HTTP server for a management address: GET and HEAD, one answer a connection, everything bounded.
//!
//! Everything is nonblocking and goes round by round, as on the control socket: in one round each client gets at most one
//! read, one answer and one write. A client costs at most 8 KiB and one page, and the page is made at most
//! once a round in each format. Threads there are none.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Bytes of a request's head.
const HEAD_MAX: usize = 8 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Clients at a time: a scraper, a second one, somebody with curl.
const CLIENTS_MAX: usize = 16;
/// How long a client may take for its question and for reading the answer, together.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Such as `200 OK`.
    pub status: &'static str,
    /// The body's type.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A line of text.
    pub fn text(status: &'static str, line: impl Into<String>) -> Self {
        let body = (line.into() + "\n").into_bytes();
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// On the wire; without the body to a HEAD (RFC 9110 §9.3.2).
    fn bytes(&self, head_only: bool) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let (len, allow) = (body.len(), if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" });
        let head = format!(
            "HTTP/1.1 {status}\r\n{allow}Content-Type: {content_type}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
        );
        let body: &[u8] = if head_only { &[] } else { body };
        [head.as_bytes(), body].concat()
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Without what follows a `?`.
    pub path: String,
    /// By HEAD: only what stands above the body.
    pub head: bool,
    /// All `Accept` headers, with commas between them; empty if there is none.
    pub accept: String,
}

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Http {
    listener: TcpListener,
    clients: Vec<Client>,
    next_id: u64,
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    since: Instant,
    input: Vec<u8>,
    /// A number that is not used again.
    id: u64,
    /// What is asked and not answered yet.
    question: Option<Question>,
    /// The answer and how much of it is sent; none: there is none yet.
    output: Option<(Vec<u8>, usize)>,
    over: bool,
}

impl Http {
    /// Listens on `addr`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), next_id: 0 })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What a round is worth being woken for: somebody who wants in, or has more to say.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let asking =
            self.clients.iter().filter(|client| client.output.is_none() && client.question.is_none());
        asking.map(|client| client.stream.as_fd()).chain([self.listener.as_fd()])
    }

    /// How soon a round is worth it: an answer is under way that is not made yet, or that its client has not taken.
    pub fn look_again(&self) -> Option<Duration> {
        let (made, sent) = (Duration::from_micros(200), Duration::from_millis(5));
        let again = |client: &Client| match (&client.question, &client.output) {
            (Some(_), _) => Some(made),
            (None, output) => output.as_ref().map(|_| sent),
        };
        self.clients.iter().filter_map(again).min()
    }

    /// One round. `answer` gets each question and who asks, every round until it has an answer; `gone` hears of each client
    /// that has left.
    pub fn turn(
        &mut self,
        mut answer: impl FnMut(u64, &Question) -> Option<Answer>,
        mut gone: impl FnMut(u64),
    ) {
        for _ in 0..CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else { break };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() >= CLIENTS_MAX {
                // The one that has been here for longest makes room.
                gone(self.clients.remove(0).id);
            }
            let (since, input, id) = (Instant::now(), Vec::new(), self.next_id);
            self.next_id += 1;
            self.clients.push(Client { stream, since, input, id, question: None, output: None, over: false });
        }
        for client in &mut self.clients {
            client.serve(&mut answer);
        }
        self.clients.retain(|client| {
            let stays = !client.over && client.since.elapsed() < PATIENCE;
            if !stays {
                gone(client.id);
            }
            stays
        });
    }
}

impl Client {
    fn serve(&mut self, answer: &mut impl FnMut(u64, &Question) -> Option<Answer>) {
        if self.output.is_none() && self.question.is_none() {
            self.read();
            match self.question() {
                Some(Ok(question)) => self.question = Some(question),
                Some(Err(refused)) => self.output = Some((refused.bytes(false), 0)),
                None => {}
            }
        }
        if let Some(question) = &self.question
            && let Some(answer) = answer(self.id, question)
        {
            self.output = Some((answer.bytes(question.head), 0));
            self.question = None;
        }
        self.write();
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.over = true,
            Ok(count) => self.input.extend_from_slice(&chunk[..count]),
            Err(error) => self.over |= !is_passing(&error),
        }
    }

    /// A whole question, or why it gets no answer; none while the question is not complete.
    fn question(&self) -> Option<Result<Question, Answer>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&self.input) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if self.input.len() < HEAD_MAX => return None,
            Ok(httparse::Status::Partial) => {
                return Some(Err(Answer::text(
                    "431 Request Header Fields Too Large",
                    "the request is too long",
                )));
            }
            Err(error) => return Some(Err(Answer::text("400 Bad Request", error.to_string()))),
        }
        if !matches!(request.method, Some("GET" | "HEAD")) {
            return Some(Err(Answer::text("405 Method Not Allowed", "only GET and HEAD are answered")));
        }
        let head = request.method == Some("HEAD");
        let path = request.path.unwrap_or("/");
        let accept: Vec<_> = request
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("accept"))
            .map(|header| String::from_utf8_lossy(header.value))
            .collect();
        let path = path.split('?').next().unwrap_or(path).to_owned();
        Some(Ok(Question { path, head, accept: accept.join(",") }))
    }

    fn write(&mut self) {
        let Some((bytes, sent)) = &mut self.output else { return };
        match self.stream.write(&bytes[*sent..]) {
            Ok(count) => *sent += count,
            Err(error) => self.over |= !is_passing(&error),
        }
        self.over |= *sent == bytes.len();
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks `question` and returns the answer, turning the server meanwhile.
    fn ask(http: &mut Http, question: &[u8]) -> String {
        let mut stream = TcpStream::connect(http.local_addr().expect("an address")).expect("it listens");
        stream.write_all(question).expect("it takes it");
        stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let (mut text, begun, mut asked) = (Vec::new(), Instant::now(), None);
        while begun.elapsed() < Duration::from_secs(10) {
            // At the second time of asking.
            http.turn(
                |id, Question { path, accept, .. }| {
                    let answer = Answer::text("200 OK", format!("this is {path} as {accept}"));
                    asked.replace(id).map(|_| answer)
                },
                |_| (),
            );
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return String::from_utf8(text).expect("UTF-8"),
                Ok(count) => text.extend_from_slice(&chunk[..count]),
                Err(_) => {}
            }
        }
        panic!("no end of the answer: {}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn get_is_answered_and_nothing_else() {
        let mut http = Http::bind("127.0.0.1:0".parse().expect("an address")).expect("loopback");
        let answer =
            ask(&mut http, b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\naccept: a\r\nAccept: b/c\r\n\r\n");
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n")
                && answer.ends_with("\r\n\r\nthis is /metrics as a,b/c\n"),
            "{answer}"
        );
        assert!(answer.contains("\r\nContent-Length: 26\r\n"), "{answer}");
        let head = ask(&mut http, b"HEAD /metrics HTTP/1.1\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 21\r\n"), "as long as the body would be: {head}");
        let refused = ask(&mut http, b"POST / HTTP/1.1\r\n\r\n");
        assert!(
            refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"),
            "{refused}"
        );
        assert!(ask(&mut http, b"\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
        assert!(
            ask(&mut http, &[&b"GET / HTTP/1.1\r\nA: "[..], &vec![b'a'; HEAD_MAX]].concat())
                .starts_with("HTTP/1.1 431 ")
        );
        assert!(http.clients.is_empty());
    }

    #[test]
    fn those_who_say_nothing_make_room() {
        let mut http = Http::bind("127.0.0.1:0".parse().expect("an address")).expect("loopback");
        let addr = http.local_addr().expect("an address");
        let silent: Vec<TcpStream> =
            (0..3 * CLIENTS_MAX).map(|_| TcpStream::connect(addr).expect("it listens")).collect();
        assert!(ask(&mut http, b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
        assert!(http.clients.len() <= CLIENTS_MAX);
        drop(silent);
    }
}
