//! The engine's log, told to one isolate of the process: nobody knows whose event it was.
//!
//! Who logs may hold locks of the engine: an entry waits in a queue, and the event loop of the isolate is woken.

use std::sync::{Arc, LazyLock, Once};

use napi::{
    Status,
    bindgen_prelude::Function,
    threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode},
};
use napi_derive::napi;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sophia_core::logs::{self, Entry, Filter, Queue};

use crate::case::camel;

/// What is heard where `SOPHIA_LOG` does not say it: where a function listens, and where none does.
const LISTENED_TO: &str = "info";
const UNASKED: &str = "warn";

static TELLER: LazyLock<Teller> = LazyLock::new(Teller::default);

#[derive(Default)]
struct Teller {
    filter: Arc<Filter>,
    queue: Queue,
    isolates: Mutex<Isolates>,
}

/// Those that can be told. The last one is, until it ends.
#[derive(Default)]
struct Isolates {
    told: Vec<Isolate>,
    count: u32,
}

struct Isolate {
    number: u32,
    listens: bool,
    wake: Wake,
}

/// Tells an isolate that the queue is no longer empty. Weak: it does not keep the process alive.
type Wake = ThreadsafeFunction<(), (), String, Status, false, true>;

/// Tells this isolate from now on: in place of all others if it `listens`, else where there is no other. `deliver` takes the
/// JSON text of a list. Returns the number of the isolate.
#[napi]
pub fn tell_logs(
    #[napi(ts_arg_type = "(entries: string) => void")] deliver: Function<'_, String, ()>,
    listens: bool,
) -> napi::Result<u32> {
    static INSTALLED: Once = Once::new();
    // Where the command line runs, its own log stays.
    INSTALLED.call_once(|| {
        logs::install(TELLER.filter.clone(), hear);
    });
    let number = {
        let mut isolates = TELLER.isolates.lock();
        isolates.count = isolates.count.wrapping_add(1);
        isolates.count
    };
    let end = End(number);
    let wake = deliver.build_threadsafe_function::<()>().callee_handled::<false>().weak::<true>().build_callback(
        move |_| {
            let _lives = &end;
            Ok(waiting())
        },
    )?;
    {
        let told = &mut TELLER.isolates.lock().told;
        let place = if listens { told.len() } else { 0 };
        told.insert(place, Isolate { number, listens, wake });
    }
    settle();
    Ok(number)
}

/// Takes what waits for the isolate `number`, which ends before it is woken again.
#[napi]
pub fn take_logs(number: u32) -> String {
    let is_told = TELLER.isolates.lock().told.last().is_some_and(|last| last.number == number);
    if is_told { waiting() } else { "[]".to_owned() }
}

fn hear(entry: Entry) {
    if TELLER.queue.push(entry) {
        wake();
    }
}

/// Wakes the last isolate that has not ended.
fn wake() {
    // Dropped after the lock is given back, which `End` takes.
    let mut ended = Vec::new();
    let mut isolates = TELLER.isolates.lock();
    while let Some(last) = isolates.told.last() {
        if last.wake.call((), ThreadsafeFunctionCallMode::NonBlocking) == Status::Ok {
            break;
        }
        ended.extend(isolates.told.pop());
    }
    drop(isolates);
}

/// Heeds who is told now.
fn settle() {
    let listens = TELLER.isolates.lock().told.last().is_some_and(|last| last.listens);
    TELLER.filter.set_as_asked(if listens { LISTENED_TO } else { UNASKED });
    wake();
}

/// The end of an isolate: what it was woken for, and did not hear, is for the next one.
struct End(u32);

impl Drop for End {
    fn drop(&mut self) {
        let mut isolates = TELLER.isolates.lock();
        let place = isolates.told.iter().position(|isolate| isolate.number == self.0);
        let ended = place.map(|place| isolates.told.remove(place));
        drop(isolates);
        drop(ended);
        settle();
    }
}

/// Takes what waits, as JSON text.
fn waiting() -> String {
    Value::Array(TELLER.queue.take().into_iter().map(written).collect()).to_string()
}

fn written(entry: Entry) -> Value {
    let text = entry.to_string();
    let fields: Map<_, _> = entry.fields.into_iter().map(|(name, value)| (camel(&name).into_owned(), value)).collect();
    json!({"level": entry.level, "target": entry.target, "message": entry.message, "fields": fields, "text": text})
}
