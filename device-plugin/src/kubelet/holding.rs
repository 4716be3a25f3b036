//! What containers still hold of what is no longer there.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pod_resources::PodResources;
use super::resources::ResourceName;

/// How often the kubelet is asked while something is gone that may be held, or after it did not answer.
const AGAIN: Duration = Duration::from_secs(10);

/// Devices and slices, as (resource, id as the kubelet knows it).
pub(super) type Names = BTreeSet<(ResourceName, String)>;

/// What has to be offered on, as sick, although it is not there.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Goes up when something vanishes: answers to older questions may not know yet who held it.
    question: u64,
    names: Names,
    present: Names,
}

/// What to ask the kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Question {
    number: u64,
    /// Ask again and again.
    again: bool,
}

/// What is held, and the question that this answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    question: u64,
    held: Names,
}

impl Gone {
    /// These are there now. What vanished counts as held until the kubelet says otherwise.
    pub fn present(&mut self, present: Names) {
        let vanished: Vec<_> = self.present.difference(&present).cloned().collect();
        if !vanished.is_empty() {
            self.question += 1;
            self.names.extend(vanished);
        }
        self.names.retain(|name| !present.contains(name));
        self.present = present;
    }

    /// The kubelet answered. It also knows of what vanished while this process was away.
    pub fn answered(&mut self, answer: &Answer) {
        if answer.question == self.question {
            self.names = answer.held.difference(&self.present).cloned().collect();
        }
    }

    /// What is gone and may be held.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What has to be asked.
    pub fn question(&self) -> Question {
        Question { number: self.question, again: !self.names.is_empty() }
    }
}

/// Asks the kubelet what is held, once at the start and then as the question says.
pub(super) async fn follow(
    mut kubelet: PodResources,
    mut questions: watch::Receiver<Question>,
    answers: watch::Sender<Answer>,
    stop: CancellationToken,
) {
    loop {
        let question = *questions.borrow_and_update();
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = kubelet.held() => answer,
        };
        let answered = answer.is_ok();
        match answer {
            Ok(held) => drop(answers.send_replace(Answer { question: question.number, held })),
            Err(error) => tracing::debug!(%error, "cannot ask the kubelet what is held"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = questions.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if question.again || !answered => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ids: &[&str]) -> Names {
        ids.iter().map(|id| ("nvidia.com/gpu".parse().unwrap(), (*id).to_owned())).collect()
    }

    #[test]
    fn what_vanishes_is_kept_until_the_kubelet_says_that_nobody_holds_it() {
        let mut gone = Gone::default();
        gone.present(names(&["a", "b", "c"]));
        assert_eq!(gone.question(), Question::default());
        gone.present(names(&["a"]));
        assert_eq!(gone.names(), &names(&["b", "c"]));
        assert_eq!(gone.question(), Question { number: 1, again: true });
        gone.answered(&Answer { question: 0, held: names(&[]) });
        assert_eq!(gone.names(), &names(&["b", "c"]), "the question was older");
        gone.answered(&Answer { question: 1, held: names(&["a", "b"]) });
        assert_eq!(gone.names(), &names(&["b"]));
        gone.answered(&Answer { question: 1, held: names(&["a"]) });
        assert_eq!(gone.question(), Question { number: 1, again: false });
    }

    #[test]
    fn what_comes_back_is_not_gone() {
        let mut gone = Gone::default();
        gone.present(names(&["a", "b"]));
        gone.present(names(&[]));
        gone.present(names(&["b"]));
        assert_eq!(gone.names(), &names(&["a"]));
    }

    #[test]
    fn what_is_held_since_before_the_start_and_not_there_is_gone() {
        let mut gone = Gone::default();
        gone.present(names(&["a"]));
        gone.answered(&Answer { question: 0, held: names(&["a", "old"]) });
        assert_eq!(gone.names(), &names(&["old"]));
    }
}
