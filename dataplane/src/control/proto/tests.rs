use super::*;

fn parse(line: &str) -> Result<Request, String> {
    parse_request(line.as_bytes()).map_err(|refusal| refusal.to_string())
}

fn which(addr: &str) -> Which {
    Which { addr: addr.parse().expect("an address"), device: None, fd: None, all: false }
}

#[test]
fn every_request_comes_back_as_it_was_sent() {
    let listen = Listen {
        addr: "[2001:db8::1]:443".parse().expect("an address"),
        backlog: -1,
        reuseport: true,
        v6only: Some(true),
        device: Some("wan".into()),
        then: ThenName::Discard,
        defer_accept: 30,
    };
    let requests = [
        Request::Listen(listen),
        Request::Close(Which { all: true, ..which("198.18.0.1:80") }),
        Request::Ss { from: 7 },
        Request::Accept(Which { device: Some("p0".into()), fd: Some(3), ..which("0.0.0.0:80") }),
        Request::CloseConnection { fd: 9, reset: true },
        Request::Stats {},
        Request::Latency { core: Some(1) },
        Request::CookieKeys { rotate: true },
    ];
    for request in requests {
        let line = request_line(&request);
        let (end, body) = line.split_last().expect("a line");
        assert_eq!(*end, b'\n');
        assert!(!body.contains(&b'\n'));
        assert_eq!(parse_request(body), Ok(request));
    }
}

#[test]
fn lines_look_as_documented() {
    assert_eq!(
        parse(r#"{"v":1,"request":"listen","addr":"198.18.0.1:80"}"#),
        Ok(Request::Listen(Listen {
            addr: "198.18.0.1:80".parse().expect("an address"),
            backlog: 4096,
            reuseport: false,
            v6only: None,
            device: None,
            then: ThenName::Queue,
            defer_accept: 0,
        }))
    );
    assert_eq!(parse(r#"{"request":"ss","v":1}"#), Ok(Request::Ss { from: 0 }));
    assert_eq!(parse(r#"{"v":1,"request":"stats"}"#), Ok(Request::Stats {}));
    assert_eq!(parse(r#"{"v":1,"request":"close","addr":"[::]:80"}"#), Ok(Request::Close(which("[::]:80"))));

    let text = |reply| String::from_utf8(reply_line(&reply)).expect("UTF-8");
    let listening =
        Listening { fd: 3, addr: "198.18.0.1:80".parse().expect("an address"), backlog: 128, listeners: 1 };
    assert_eq!(
        text(Ok(Reply::Listening(listening))),
        "{\"v\":1,\"ok\":{\"fd\":3,\"addr\":\"198.18.0.1:80\",\"backlog\":128}}\n"
    );
    assert_eq!(text(Ok(Reply::Done {})), "{\"v\":1,\"ok\":{}}\n");
    assert_eq!(
        text(Err(Refusal { errno: Some("EADDRINUSE".into()), message: "no".into() })),
        "{\"v\":1,\"error\":{\"errno\":\"EADDRINUSE\",\"message\":\"no\"}}\n"
    );
}

#[test]
fn what_is_no_request_is_refused() {
    let refusals = [
        ("", "wanted one JSON object such as"),
        ("[1]", "wanted one JSON object such as"),
        ("{\"v\":1", "wanted one JSON object such as"),
        ("\u{0}\u{1}", "wanted one JSON object such as"),
        (r#"{"request":"ss"}"#, "no \"v\" in the request"),
        (r#"{"v":2,"request":"ss"}"#, "this server speaks version 1, the request version 2"),
        (r#"{"v":"1","request":"ss"}"#, "this server speaks version 1, the request version \"1\""),
        (r#"{"v":1}"#, "in the request: missing field `request`"),
        (
            r#"{"v":1,"request":"sz"}"#,
            "in the request: unknown variant `sz`, expected one of `listen`, `close`",
        ),
        (r#"{"v":1,"request":"ss","form":1}"#, "in the request: unknown field `form`"),
        (r#"{"v":1,"request":"stats","x":1}"#, "in the request: unknown field `x`"),
        (r#"{"v":1,"request":"listen"}"#, "in the request: missing field `addr`"),
        (
            r#"{"v":1,"request":"listen","addr":"198.18.0.1:0"}"#,
            "in the request: \"198.18.0.1:0\": port 0 is none",
        ),
        (
            r#"{"v":1,"request":"listen","addr":"198.18.0.1:1","bcklog":1}"#,
            "in the request: unknown field `bcklog`",
        ),
        (r#"{"v":1,"request":"latency","core":70000}"#, "in the request: invalid value: integer `70000`"),
    ];
    for (line, start) in refusals {
        let message = parse(line).expect_err(line);
        assert!(message.starts_with(start), "{line}: {message}");
    }
    // Nesting ends in an error, not in a full stack.
    let deep = format!("{{\"v\":1,\"request\":\"ss\",\"from\":{}", "[".repeat(60_000));
    assert!(parse(&deep).is_err());
}

#[test]
fn totals_are_sums_by_name() {
    let one = |drops: &[(&str, u64)]| CoreStats {
        core: Some(0),
        rx_frames: 10,
        drops: drops.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        ..Default::default()
    };
    let mut total = CoreStats::default();
    total.add(&one(&[("tcp_csum", 3)]));
    total.add(&one(&[("tcp_csum", 4), ("otherhost", 1)]));
    assert_eq!((total.core, total.rx_frames), (None, 20));
    assert_eq!(total.drops, BTreeMap::from([("tcp_csum".to_owned(), 7), ("otherhost".to_owned(), 1)]));
}
