//! One turn of a pod without a gang.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::scheduling::{GangRequest, MemberRequest};

use super::ask::{Answer, Ask};
use super::{Action, Attempt, Binding, Nominate, Outcome, Scheduler};
use crate::objects::ObjectKey;
use crate::queue::{Order, Work};

impl Scheduler {
    pub(super) fn try_pod(&mut self, key: &ObjectKey, order: Order, now: Duration, attempt: &mut Attempt) -> Outcome {
        let work = Work::Pod(key.clone());
        let pod = self.cache.pod(key).filter(|pod| pod.waits() && pod.gang.is_none()).cloned();
        let Some(pod) = pod.filter(|_| self.cache.assumed(key).is_none()) else {
            self.withdraw(&work, attempt);
            return Outcome::Nothing;
        };
        let shape = match (&pod.not_supported, self.cache.shape(key)) {
            (Some(why), _) => Err((Arc::from(why.to_string()), Outcome::Refused)),
            (None, Some(Ok(shape))) => Ok(Arc::clone(shape)),
            (None, Some(Err(why))) => Err((Arc::clone(why), Outcome::Incomplete)),
            (None, None) => return Outcome::Nothing,
        };
        let shape = match shape {
            Ok(shape) => shape,
            Err((why, outcome)) => {
                self.withdraw(&work, attempt);
                self.tell(key, &why, &Nominate::Leave, true, now, attempt);
                self.queue.wait(work, order, Some(why), None);
                return outcome;
            }
        };
        let member = MemberRequest {
            shape: Arc::clone(&shape),
            identity: Arc::clone(&pod.identity),
            node: pod.nominated.clone(),
        };
        let closed = self.closed_to(&work, order, pod.duration, now);
        let ask = Ask {
            work,
            order,
            request: GangRequest { members: vec![member], minimum: 1, topology: Vec::new(), closed },
            pods: vec![key.clone()],
            priority: pod.priority,
            preempts: pod.preempts,
            alone: false,
        };
        match self.place(ask, now, attempt) {
            Answer::Fits(assignment) => {
                for node in assignment.nodes.into_iter().flatten() {
                    self.unsay(key);
                    self.cache.assume(key, &node);
                    self.decider.observe(&shape, 1);
                    let (pod, uid) = (key.clone(), Arc::clone(&pod.uid));
                    attempt.actions.push(Action::Bind(Binding { pod, uid, node, gang: None }));
                }
                self.pods_moved();
                Outcome::Binding
            }
            Answer::Refused(why) => {
                self.tell(key, &why, &Nominate::Leave, true, now, attempt);
                Outcome::Refused
            }
            Answer::Preempts => Outcome::Preempting,
            Answer::Behind => Outcome::Nothing,
        }
    }
}
