//! One connection of an app that speaks the native protocol: its requests go to the servers that they are for, and what those
//! answer comes back as it is.
//!
//! ```text
//!   app ──frames──▶ which dnpipe? ──▶ where is that? ──▶ its line ═▶ server
//!    ▲                                    ▲                             ║
//!    └────── answers, in any order ◀── "elsewhere": noted ◀═════════════╝
//! ```
//!
//! A connection has lines of its own, so that its order, its members of groups and what it may have open are at the server what
//! they would be without anybody between. Requests keep their numbers. The app hears no address: where a dnpipe is elsewhere it
//! is told to ask again, and then the server is asked that has it. When a server goes away amid a request that changes something
//! nobody knows what came of that, so the connection ends, as the server's own would. It ends as well where a line does by which
//! the app is a member of a group, or the member's dnpipe moves: a client joins again on a connection that is new.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use sidestream_event::native::{Answer, DnpipeName, Frame, Frames, Member, Refusal, Request, write_frame};
use sidestream_gateway::{Guarded, of_no_frame};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixStream, unix::OwnedReadHalf},
    runtime::Handle,
    sync::{
        OwnedSemaphorePermit,
        mpsc::{self, error::TrySendError},
    },
    time::{sleep, timeout},
};

use super::{
    Shared, Unopened,
    limits::{
        ANSWERS_WAITING, COMES_BACK_WITHIN, FRAME_WITHIN, IDLE, IN_FLIGHT_MAX, LINES_MAX, SILENCE,
        SMALL_FRAME_BYTES, TURN, TURN_BYTES, WAITING_BYTES_MAX, WAITING_MAX, kib,
    },
    line::{self, Ending, Heard, Line},
    places::{Place, Places},
    ways::Ways,
};

/// Serves a connection that was greeted, to its end, and says why it ended.
pub(super) async fn serve(shared: &Arc<Shared>, stream: UnixStream) -> String {
    let (read, write) = stream.into_split();
    let (answers, queue) = mpsc::channel(ANSWERS_WAITING);
    let relaying = Relay::new(shared.clone(), answers).run(read);
    let writing = write_answers(write, queue);
    tokio::pin!(relaying, writing);
    tokio::select! {
        // What was answered before the end is still written.
        reason = &mut relaying => { writing.await; reason }
        reason = &mut writing => reason,
    }
}

struct Relay {
    shared: Arc<Shared>,
    /// To the app.
    answers: mpsc::Sender<Outgoing>,
    ways: Ways,
    lines: HashMap<Place, Line>,
    /// From all lines.
    heard: mpsc::Receiver<Heard>,
    hears: mpsc::Sender<Heard>,
    lines_ever: u64,
    /// By number.
    open: HashMap<u32, Asked>,
    /// Requests whose lines have no room yet, in their order: nothing for the same line may go first.
    waiting: VecDeque<Waiting>,
    /// Room on lines for which something waits, one of each.
    rooms: FuturesUnordered<Room>,
    /// Members of groups, each with the line on which it became one.
    members: Vec<(Member, u64)>,
}

/// A request that has not left.
struct Waiting {
    number: u32,
    line: u64,
    requests: mpsc::Sender<line::Request>,
    request: line::Request,
}

/// Room for a request on a line. Where that has ended there is never any, and the line says so itself.
type Room = Pin<Box<dyn Future<Output = (u64, Option<mpsc::OwnedPermit<line::Request>>)> + Send + Sync>>;

/// A request that is not answered.
struct Asked {
    name: Option<DnpipeName>,
    place: Place,
    line: u64,
    /// Whether it makes no difference that it was asked.
    only_reads: bool,
    /// Who becomes a member by it.
    joins: Option<Member>,
}

/// A frame on its way to the app.
struct Outgoing {
    head: Vec<u8>,
    tail: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

/// Why a connection ends.
type End = String;

impl Relay {
    fn new(shared: Arc<Shared>, answers: mpsc::Sender<Outgoing>) -> Relay {
        let (hears, heard) = mpsc::channel(ANSWERS_WAITING);
        Relay {
            shared,
            answers,
            ways: Ways::default(),
            lines: HashMap::new(),
            heard,
            hears,
            lines_ever: 0,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            rooms: FuturesUnordered::new(),
            members: Vec::new(),
        }
    }

    async fn run(mut self, mut stream: OwnedReadHalf) -> End {
        let mut frames = Frames::default();
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut deadline = Box::pin(sleep(IDLE));
        // While a frame has its room: when to look whether it goes on, and how much of it had come before.
        let (mut turn, mut had_come) = (Box::pin(sleep(TURN)), None);
        loop {
            while !self.is_full() {
                match frames.next_frame() {
                    Ok(Some(frame)) => {
                        if let Err(end) = self.ask(frame, room.take()).await {
                            return end;
                        }
                        deadline.set(sleep(FRAME_WITHIN));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let reason = error.to_string();
                        let (number, refusal) = of_no_frame(&mut frames, error);
                        // The app may be gone.
                        let _ = self.refuse(number, refusal).await;
                        return reason;
                    }
                }
            }
            let is_full = self.is_full();
            let has_come = frames.buffer().len();
            if is_full {
                // It is not the app that it waits for.
                had_come = None;
            }
            // Who only says that something large comes takes no room from anybody.
            let is_large =
                |bytes: &usize| *bytes > SMALL_FRAME_BYTES && has_come >= SMALL_FRAME_BYTES && room.is_none();
            let announced = frames.announced().filter(is_large);
            let has_time =
                if frames.is_amid() { announced.is_none() && !is_full } else { self.open.is_empty() };
            frames.make_room();
            tokio::select! {
                biased;
                Some(heard) = self.heard.recv() => {
                    if let Err(end) = self.hear(heard).await {
                        return end;
                    }
                    deadline.set(sleep(if frames.is_amid() { FRAME_WITHIN } else { IDLE }));
                }
                Some((line, permit)) = self.rooms.next(), if !self.rooms.is_empty() => {
                    if let Some(permit) = permit {
                        self.leave(line, permit);
                    }
                }
                permit = self.shared.incoming.clone().acquire_many_owned(kib(announced.unwrap_or_default())),
                    if announced.is_some() && !is_full =>
                {
                    room = permit.ok();
                    deadline.set(sleep(FRAME_WITHIN));
                    turn.set(sleep(TURN));
                    had_come = Some(has_come);
                }
                count = stream.read_buf(frames.buffer()), if announced.is_none() && !is_full => match count {
                    Ok(0) => return "the app closed it".into(),
                    Ok(count) => {
                        if frames.buffer().len() == count {
                            deadline.set(sleep(FRAME_WITHIN));
                        }
                    }
                    Err(error) => return error.to_string(),
                },
                () = &mut turn, if room.is_some() => {
                    let goes_on = had_come.is_none_or(|before| has_come >= before + TURN_BYTES);
                    // Who waits takes what there is.
                    if !goes_on && self.shared.incoming.available_permits() == 0 {
                        return "others wait for the room of a frame that does not come".into();
                    }
                    turn.set(sleep(TURN));
                    had_come = Some(has_come);
                }
                () = &mut deadline, if has_time => {
                    return if frames.is_amid() { "a frame did not come whole in time" } else { "nothing was asked" }.into();
                }
            }
        }
    }

    /// Has a request wait for its line, or answers it.
    async fn ask(&mut self, frame: Frame, room: Option<OwnedSemaphorePermit>) -> Result<(), End> {
        let number = frame.request;
        if self.open.contains_key(&number) {
            return Err(format!("two requests that are not answered have the number {number}"));
        }
        let request = match frame.read::<Request>() {
            Ok(Request::Ping) => return self.answer(number, &Answer::Pong).await,
            Ok(Request::Move(_)) => return self.refuse(number, only_servers()).await,
            Ok(request) => request,
            Err(error) => return self.refuse(number, Refusal::Bad { reason: error.to_string() }).await,
        };
        let name = request.dnpipe().cloned();
        let place = match &name {
            Some(name) => self.place(name),
            None => Some(Places::first_of(&self.shared.namespace)),
        };
        let Some(place) = place else { return self.refuse(number, Refusal::Busy).await };
        let (line, requests) = match self.line(&place) {
            Ok(line) => (line.number, line.requests.clone()),
            Err(refusal) => return self.refuse(number, refusal).await,
        };
        let mut head = Vec::new();
        if let Err(error) = write_frame(number, &request, frame.tail.len(), &mut head) {
            return self.refuse(number, Refusal::Bad { reason: error.to_string() }).await;
        }
        if let Request::Leave { member } = &request {
            self.members.retain(|(own, _)| own != member);
        }
        let only_reads = request.only_reads();
        let joins = match request {
            Request::Join { member, .. } | Request::JoinToHold { member } => Some(member),
            _ => None,
        };
        self.open.insert(number, Asked { name, place, line, only_reads, joins });
        let request = line::Request { head, tail: frame.tail, room };
        self.hand_on(Waiting { number, line, requests, request });
        Ok(())
    }

    /// Whether nothing more may be asked before something leaves or is answered.
    fn is_full(&self) -> bool {
        let bytes = |own: &Waiting| own.request.head.len() + own.request.tail.len();
        self.open.len() >= IN_FLIGHT_MAX
            || self.waiting.len() >= WAITING_MAX
            || self.waiting.iter().map(bytes).sum::<usize>() >= WAITING_BYTES_MAX
    }

    /// Puts a request into its line, or behind those that wait for that.
    fn hand_on(&mut self, mut own: Waiting) {
        if !self.waiting.iter().any(|before| before.line == own.line) {
            own.request = match own.requests.try_send(own.request) {
                Ok(()) => return,
                Err(TrySendError::Full(request) | TrySendError::Closed(request)) => request,
            };
            self.rooms.push(room_in(own.line, own.requests.clone()));
        }
        self.waiting.push_back(own);
    }

    /// There is room for the first of those that wait for a line.
    fn leave(&mut self, line: u64, permit: mpsc::OwnedPermit<line::Request>) {
        let first = self.waiting.iter().position(|own| own.line == line);
        let Some(own) = first.and_then(|first| self.waiting.remove(first)) else { return };
        permit.send(own.request);
        if self.waiting.iter().any(|more| more.line == line) {
            self.rooms.push(room_in(line, own.requests));
        }
    }

    /// Where to ask for a dnpipe: where it was asked for before, so that nothing goes past what is not answered.
    fn place(&mut self, name: &DnpipeName) -> Option<Place> {
        let (open, members) = (&self.open, &self.members);
        self.ways.of(name, &self.shared.places, || {
            let asked: HashSet<&DnpipeName> = open.values().filter_map(|asked| asked.name.as_ref()).collect();
            members.iter().map(|(member, _)| &member.dnpipe).chain(asked).collect()
        })
    }

    /// The line to a place: the one there is, or a new one. One that has ended is there until it has said so: what it has heard
    /// comes first.
    fn line(&mut self, place: &Place) -> Result<&Line, Refusal> {
        if !self.lines.contains_key(place) {
            let address = self.shared.address(place)?;
            let permit = match self.shared.line_beside(self.lines.values().map(|line| &line.permit)) {
                Ok(permit) if self.lines.len() < LINES_MAX => permit,
                refused => {
                    drop(refused);
                    self.end_idle()?;
                    self.shared.line_beside(self.lines.values().map(|line| &line.permit))?
                }
            };
            self.lines_ever += 1;
            let (shared, hears) = (self.shared.clone(), self.hears.clone());
            let line = Line::open(self.lines_ever, address, shared, hears, permit);
            self.lines.insert(place.clone(), line);
        }
        self.lines.get(place).ok_or(Refusal::Busy)
    }

    /// Makes room for a line: ends one that nobody needs.
    fn end_idle(&mut self) -> Result<(), Refusal> {
        let is_used = |number: u64| {
            let mut asked = self.open.values().map(|asked| asked.line);
            asked.any(|line| line == number) || self.members.iter().any(|(_, line)| *line == number)
        };
        let idle = self.lines.iter().find(|(_, line)| !is_used(line.number));
        let idle = idle.map(|(place, _)| place.clone()).ok_or(Refusal::Busy)?;
        self.lines.remove(&idle);
        Ok(())
    }

    async fn hear(&mut self, heard: Heard) -> Result<(), End> {
        match heard {
            Heard::Answer { line, frame, room } => self.pass_on(line, frame, room).await,
            Heard::Ended { line, ending } => self.ended(line, ending).await,
        }
    }

    async fn pass_on(
        &mut self,
        line: u64,
        frame: Frame,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<(), End> {
        let asked = self.open.remove(&frame.request).filter(|asked| asked.line == line);
        let asked = asked.ok_or("a server answered what it was not asked")?;
        let answer = frame.read::<Answer>().map_err(|error| error.to_string())?;
        let answer = self.seen(&asked, answer)?;
        if let (Some(member), Answer::Joined { .. }) = (asked.joins, &answer) {
            self.members.retain(|(own, _)| *own != member);
            self.members.push((member, line));
        }
        let mut head = Vec::new();
        write_frame(frame.request, &answer, frame.tail.len(), &mut head)
            .map_err(|error| error.to_string())?;
        self.write(Outgoing { head, tail: frame.tail, _room: room }).await
    }

    /// Notes what an answer says of where a dnpipe is. The app is not told: it cannot go there.
    fn seen(&mut self, asked: &Asked, answer: Answer) -> Result<Answer, End> {
        let (Some(name), places) = (&asked.name, &self.shared.places) else { return Ok(answer) };
        let is_elsewhere = match &answer {
            Answer::Refused(Refusal::NotOwner { owner: Some(owner) }) => {
                places.is_at(name, &asked.place, owner);
                true
            }
            Answer::Refused(Refusal::UnknownDnpipe(_)) => places.is_unknown(name, &asked.place),
            Answer::Dnpipe(view) => match view.partitions.iter().find_map(|own| own.owner.as_deref()) {
                // Its server knows how it is.
                Some(owner) => {
                    places.is_at(name, &asked.place, owner);
                    true
                }
                None => false,
            },
            _ => false,
        };
        if is_elsewhere {
            let is_member = |(member, line): &(Member, u64)| member.dnpipe == *name && *line == asked.line;
            if self.members.iter().any(is_member) {
                return Err(format!("{name} has moved, of which the app has members"));
            }
            self.ways.end(name, &asked.place);
            return Ok(Answer::Refused(Refusal::NotOwner { owner: None }));
        }
        match answer {
            Answer::Refused(Refusal::UnknownDnpipe(_)) => self.ways.end(name, &asked.place),
            _ => places.is_known(name, &asked.place),
        }
        Ok(answer)
    }

    async fn ended(&mut self, line: u64, ending: Ending) -> Result<(), End> {
        let place = self.lines.iter().find(|(_, own)| own.number == line).map(|(place, _)| place.clone());
        if let Some(place) = place {
            if matches!(ending, Ending::Broken(_)) {
                self.shared.places.has_answered(&place);
            }
            self.lines.remove(&place);
            self.ways.end_all(&place);
        }
        let mut unsent = HashSet::new();
        self.waiting.retain(|own| own.line != line || !unsent.insert(own.number));
        let of_line = self.open.extract_if(|_, asked| asked.line == line);
        let of_line: Vec<(u32, Asked)> = of_line.collect();
        let mut unknown = HashSet::new();
        let refusal = match &ending {
            // Nobody was asked.
            Ending::Unopened(Unopened::NoTurn) => Refusal::Busy,
            _ => {
                for (_, Asked { name, place, .. }) in &of_line {
                    let name = name.as_ref().filter(|name| self.shared.places.is_away(name, place));
                    unknown.extend(name.cloned());
                }
                Refusal::Stopping
            }
        };
        if let Ending::Broken(reason) = ending {
            let may_be_done = |(number, asked): &(u32, Asked)| !unsent.contains(number) && !asked.only_reads;
            if of_line.iter().any(may_be_done) || self.members.iter().any(|(_, own)| *own == line) {
                return Err(format!("a server went away: {reason}"));
            }
        }
        for (number, asked) in of_line {
            let refusal = match asked.name.filter(|name| unknown.contains(name)) {
                Some(name) => Refusal::UnknownDnpipe(name),
                None => refusal.clone(),
            };
            self.refuse(number, refusal).await?;
        }
        Ok(())
    }

    async fn refuse(&self, number: u32, refusal: Refusal) -> Result<(), End> {
        self.answer(number, &Answer::Refused(refusal)).await
    }

    async fn answer(&self, number: u32, answer: &Answer) -> Result<(), End> {
        let mut head = Vec::new();
        write_frame(number, answer, 0, &mut head).map_err(|error| error.to_string())?;
        self.write(Outgoing { head, tail: Bytes::new(), _room: None }).await
    }

    async fn write(&self, outgoing: Outgoing) -> Result<(), End> {
        self.answers.send(outgoing).await.map_err(|_| "nothing can be written".into())
    }
}

fn room_in(line: u64, requests: mpsc::Sender<line::Request>) -> Room {
    Box::pin(async move { (line, requests.reserve_owned().await.ok()) })
}

fn only_servers() -> Refusal {
    Refusal::NotAllowed { who: "the app".into(), what: "move dnpipes".into() }
}

/// Who hung up has ended, or comes back at once as another member. A server cannot see that: to it a line may have broken.
impl Drop for Relay {
    fn drop(&mut self) {
        let mut members = std::mem::take(&mut self.members);
        // What is kept for those that wait is not taken by the line.
        self.rooms.clear();
        // Who was about to be one may be one by now, where that has left.
        let (open, lines, waiting) = (&self.open, &self.lines, &self.waiting);
        let has_left = |(number, asked): &(&u32, &Asked)| {
            lines.values().any(|line| line.number == asked.line && line.has_taken_all())
                && !waiting.iter().any(|own| own.number == **number)
        };
        let joining = open.iter().filter(has_left);
        members.extend(joining.filter_map(|(_, asked)| Some((asked.joins.clone()?, asked.line))));
        // Where there is no runtime any more, the process ends.
        let (Ok(permit), Ok(runtime), false) =
            (self.shared.partings.clone().try_acquire_owned(), Handle::try_current(), members.is_empty())
        else {
            return;
        };
        let mut lines: Vec<Line> = std::mem::take(&mut self.lines).into_values().collect();
        lines.retain(|line| members.iter().any(|(_, own)| *own == line.number));
        let (_, nobody) = mpsc::channel(1);
        let heard = std::mem::replace(&mut self.heard, nobody);
        runtime.spawn(async move {
            part(members, lines, heard).await;
            drop(permit);
        });
    }
}

async fn part(members: Vec<(Member, u64)>, lines: Vec<Line>, mut heard: mpsc::Receiver<Heard>) {
    // What was asked before is answered to nobody.
    let _ = timeout(COMES_BACK_WITHIN, async { while heard.recv().await.is_some() {} }).await;
    let count = members.len() as u32;
    let leaving = async {
        for (index, (member, line)) in (0..count).zip(members) {
            let Some(line) = lines.iter().find(|own| own.number == line) else { continue };
            let mut head = Vec::new();
            if write_frame(u32::MAX - index, &Request::Leave { member }, 0, &mut head).is_ok() {
                // Refused where it is another's by now; where the line has ended, it is missed later.
                let _ = line.requests.send(line::Request { head, tail: Bytes::new(), room: None }).await;
            }
        }
    };
    let left = async {
        let mut left = 0;
        while left < count
            && let Some(heard) = heard.recv().await
        {
            let is_leave = |frame: &Frame| u32::MAX - frame.request < count;
            left += u32::from(matches!(&heard, Heard::Answer { frame, .. } if is_leave(frame)));
        }
    };
    let _ = timeout(LEFT_WITHIN, async { tokio::join!(leaving, left) }).await;
}

async fn write_answers(stream: impl AsyncWrite + Unpin, mut answers: mpsc::Receiver<Outgoing>) -> String {
    let mut stream = Guarded::new(stream, Vec::new(), SILENCE);
    while let Some(outgoing) = answers.recv().await {
        let written = async {
            stream.write_all(&outgoing.head).await?;
            stream.write_all(&outgoing.tail).await
        };
        // Who takes it byte by byte keeps room that is others' too.
        match timeout(FRAME_WITHIN, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "an answer was not read whole in time".into(),
        }
    }
    "everything is answered".into()
}

/// How long a server may take to let members go, before it is left alone with them.
const LEFT_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tokio::{io::duplex, sync::Semaphore};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_an_answer_byte_by_byte_is_not_waited_for_for_ever() {
        let ((near, mut far), (answers, queue)) = (duplex(1), mpsc::channel(1));
        let room = Arc::new(Semaphore::new(1));
        let permit = room.clone().try_acquire_owned().ok();
        let slow = Outgoing { head: vec![7; 100], tail: Bytes::new(), _room: permit };
        assert!(answers.try_send(slow).is_ok());
        let reading = async {
            while far.read_u8().await.is_ok() {
                sleep(SILENCE / 2).await;
            }
        };
        let (reason, ()) = tokio::join!(write_answers(near, queue), reading);
        assert_eq!(reason, "an answer was not read whole in time");
        assert_eq!(room.available_permits(), 1);
    }
}
