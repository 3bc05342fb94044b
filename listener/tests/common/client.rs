//! A minimal TCP client on [`Segment`] values: SYN, ACK, data, FIN, RST, and their retransmission.

use listener::segment::{FlowKey, OutSegment, Segment, TcpOptions, flag};
use listener::types::{DevIndex, Nanos, Route, SegSeq, TcpState};

/// A client's RTO before it knows better (RFC 6298), and once it has measured a round trip of next to nothing.
const RTO_SYN: Nanos = Nanos::from_secs(1);
const RTO_MIN: Nanos = Nanos::from_millis(200);

/// One end of a connection that the stack under test did not open.
#[derive(Clone, Debug)]
pub struct Client {
    pub flow: FlowKey,
    pub dev: DevIndex,
    pub state: TcpState,
    /// What SO_ERROR would say.
    pub error: Option<&'static str>,
    /// The peer's FIN came.
    pub eof: bool,
    /// Everything that was ever sent.
    pub sent: Vec<u8>,
    /// Octets of `sent` that the peer acknowledged.
    pub acked: usize,
    iss: SegSeq,
    snd_nxt: SegSeq,
    rcv_nxt: SegSeq,
    fin: bool,
    wnd: u16,
    rto: Nanos,
    timer: Option<Nanos>,
}

impl Client {
    pub fn new(flow: FlowKey, dev: DevIndex, iss: u32) -> Self {
        Self {
            flow,
            dev,
            state: TcpState::Close,
            error: None,
            eof: false,
            sent: Vec::new(),
            acked: 0,
            iss: SegSeq(iss),
            snd_nxt: SegSeq(iss),
            rcv_nxt: SegSeq(0),
            fin: false,
            wnd: u16::MAX,
            rto: RTO_SYN,
            timer: None,
        }
    }

    fn segment(&self, flags: u8, seq: SegSeq, payload_len: u16) -> Segment {
        let acks = flags & flag::ACK != 0;
        Segment {
            flow: self.flow,
            dev: self.dev,
            flags,
            reserved: 0,
            tos: 0,
            wnd: 65_535,
            payload_len,
            seq,
            ack: if acks { self.rcv_nxt } else { SegSeq(0) },
            options: TcpOptions::default(),
            route: Route::default(),
        }
    }

    fn ack(&self) -> Segment {
        self.segment(flag::ACK, self.snd_nxt, 0)
    }

    pub fn syn(&mut self, now: Nanos) -> Segment {
        self.state = TcpState::SynSent;
        self.snd_nxt = self.iss.plus(1);
        self.timer = Some(now + self.rto);
        let mut syn = self.segment(flag::SYN, self.iss, 0);
        syn.options = TcpOptions { mss: 65_495, wscale: Some(7), sack_perm: true, timestamps: None };
        syn
    }

    pub fn send(&mut self, data: &[u8], now: Nanos) -> Segment {
        let seq = self.snd_nxt;
        self.sent.extend_from_slice(data);
        self.snd_nxt = seq.plus(data.len() as u32);
        self.timer = Some(now + self.rto);
        self.segment(flag::ACK | flag::PSH, seq, data.len() as u16)
    }

    /// Our FIN, if the state has one to send.
    pub fn send_fin(&mut self, now: Nanos) -> Option<Segment> {
        self.state = match self.state {
            TcpState::Established => TcpState::FinWait1,
            TcpState::CloseWait => TcpState::LastAck,
            TcpState::SynSent => {
                self.finish(None);
                return None;
            }
            _ => return None,
        };
        let seq = self.snd_nxt;
        self.snd_nxt = seq.plus(1);
        self.fin = true;
        self.timer = Some(now + self.rto);
        Some(self.segment(flag::FIN | flag::ACK, seq, 0))
    }

    /// A RST, if there is a connection to reset.
    pub fn abort(&mut self) -> Option<Segment> {
        let reset = !matches!(self.state, TcpState::Close | TcpState::SynSent | TcpState::TimeWait);
        let rst = self.segment(flag::RST | flag::ACK, self.snd_nxt, 0);
        self.finish(None);
        reset.then_some(rst)
    }

    fn finish(&mut self, error: Option<&'static str>) {
        self.state = TcpState::Close;
        self.error = error.or(self.error);
        self.timer = None;
    }

    pub fn timer(&self) -> Option<Nanos> {
        self.timer
    }

    /// Retransmits what its timer ran out for.
    pub fn on_timer(&mut self, now: Nanos) -> Option<Segment> {
        if self.timer.is_none_or(|at| at > now) {
            return None;
        }
        self.rto = Nanos(self.rto.0 * 2);
        if self.state == TcpState::SynSent {
            return Some(self.syn(now));
        }
        self.timer = Some(now + self.rto);
        Some(self.unacked())
    }

    fn unacked(&self) -> Segment {
        let seq = self.iss.plus(1 + self.acked as u32);
        let data = self.sent.len() - self.acked;
        let fin = if self.fin { flag::FIN } else { 0 };
        self.segment(flag::ACK | fin, seq, data as u16)
    }

    /// Takes a segment of the peer's; what is to be answered.
    pub fn input(&mut self, seg: &OutSegment) -> Option<Segment> {
        let has = |flags| seg.flags & flags == flags;
        if self.state == TcpState::Close {
            return self.input_closed(seg);
        }
        if self.state == TcpState::SynSent {
            return self.input_syn_sent(seg);
        }
        if has(flag::RST) {
            let reset = seg.seq == self.rcv_nxt;
            if reset {
                self.finish(Some("ECONNRESET"));
            }
            return None;
        }
        if has(flag::SYN) {
            return Some(self.ack());
        }
        if has(flag::ACK) {
            self.input_ack(seg.ack);
            let opened = std::mem::replace(&mut self.wnd, seg.wnd) == 0 && seg.wnd != 0;
            if opened && self.acked < self.sent.len() {
                return Some(self.unacked());
            }
        }
        if has(flag::FIN) && seg.seq == self.rcv_nxt {
            self.rcv_nxt = self.rcv_nxt.plus(1);
            self.eof = true;
            self.state = match self.state {
                TcpState::Established => TcpState::CloseWait,
                TcpState::FinWait1 => TcpState::Closing,
                TcpState::FinWait2 => TcpState::TimeWait,
                state => state,
            };
            return Some(self.ack());
        }
        has(flag::FIN).then(|| self.ack())
    }

    /// A host answers what belongs to no connection with a RST.
    fn input_closed(&self, seg: &OutSegment) -> Option<Segment> {
        let ack = seg.flags & flag::ACK != 0;
        (seg.flags & flag::RST == 0 && ack).then(|| self.segment(flag::RST, seg.ack, 0))
    }

    fn input_syn_sent(&mut self, seg: &OutSegment) -> Option<Segment> {
        let acks_syn = seg.flags & flag::ACK != 0 && seg.ack == self.snd_nxt;
        if !acks_syn {
            return None;
        }
        if seg.flags & flag::RST != 0 {
            self.finish(Some("ECONNREFUSED"));
            return None;
        }
        if seg.flags & flag::SYN == 0 {
            return None;
        }
        self.rcv_nxt = seg.seq.plus(1);
        self.state = TcpState::Established;
        self.timer = None;
        self.rto = RTO_MIN;
        Some(self.ack())
    }

    fn input_ack(&mut self, ack: SegSeq) {
        if ack.after(self.snd_nxt) {
            return;
        }
        let octets = ack.distance_from(self.iss.plus(1)) as usize;
        if octets <= self.sent.len() + usize::from(self.fin) {
            self.acked = self.acked.max(octets.min(self.sent.len()));
        }
        if ack != self.snd_nxt {
            return;
        }
        self.timer = None;
        self.state = match self.state {
            TcpState::FinWait1 => TcpState::FinWait2,
            TcpState::Closing => TcpState::TimeWait,
            TcpState::LastAck => TcpState::Close,
            state => state,
        };
    }
}
