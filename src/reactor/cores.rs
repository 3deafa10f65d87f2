//! Which thread runs where: each reactor alone on a core, everything else on the cores that are
//! left.
//!
//! A reactor that shares its core with the control plane would be late exactly when there is much
//! to report. So the process keeps its other threads off the reactors' cores if there are any
//! others, and a reactor asks for a better priority than the rest of the machine has.

use core_affinity::CoreId;
use std::mem;

/// Niceness that a reactor asks for (setpriority(2)): ahead of ordinary processes, behind real-time
/// ones, so that a spinning reactor starves nobody for good.
const NICENESS: libc::c_int = -15;

/// The cores that this process may use, dealt out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorePlan {
    reactors: Vec<Option<CoreId>>,
    spare: Vec<CoreId>,
}

impl CorePlan {
    /// Deals out the cores that the calling thread may use (sched_getaffinity(2), so cpusets and
    /// taskset are respected). With more reactors than cores they share; nothing is spare then.
    pub fn new(reactors: usize) -> CorePlan {
        Self::of(core_affinity::get_core_ids().unwrap_or_default(), reactors)
    }

    fn of(cores: Vec<CoreId>, reactors: usize) -> CorePlan {
        let dealt = (0..reactors).map(|r| cores.get(r % cores.len().max(1)).copied()).collect();
        let spare = cores.get(reactors..).unwrap_or_default().to_vec();
        CorePlan { reactors: dealt, spare }
    }

    /// The core of a reactor; `None` when the system does not say which there are.
    pub fn reactor(&self, reactor: usize) -> Option<CoreId> {
        self.reactors.get(reactor).copied().flatten()
    }

    /// Keeps the calling thread, and all that it starts from now on, off the reactors' cores.
    pub fn keep_off(&self) {
        if !self.spare.is_empty() {
            stay_on(&self.spare);
        }
    }

    /// Lets the calling thread, and what it becomes, run on all of them again.
    pub fn give_back(&self) {
        let all: Vec<CoreId> = self.reactors.iter().flatten().chain(&self.spare).copied().collect();
        if !all.is_empty() {
            stay_on(&all);
        }
    }
}

fn stay_on(cores: &[CoreId]) {
    // SAFETY: a cpu_set_t is a plain array of bits, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    for core in cores.iter().filter(|core| core.id < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_SET(core.id, &mut set) };
    }
    // SAFETY: the set is valid for its whole size. A refusal leaves the thread where it may be.
    unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) };
}

/// Makes the calling thread a reactor's: pins it to its core, and asks for exact timers and a better
/// priority. Returns the core that it was pinned to.
pub fn become_reactor(core: Option<CoreId>) -> Option<usize> {
    // SAFETY: both calls take integers and touch no memory. PR_SET_TIMERSLACK (prctl(2)): without
    // it the kernel may fire a timer 50 µs late. The priority needs CAP_SYS_NICE or a limit that
    // allows it; without, the reactor runs at the priority of everybody else.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, NICENESS);
    }
    core.filter(|core| core_affinity::set_for_current(*core)).map(|core| core.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cores: usize, reactors: usize) -> (Vec<Option<usize>>, Vec<usize>) {
        let plan = CorePlan::of((0..cores).map(|id| CoreId { id }).collect(), reactors);
        let dealt = (0..reactors).map(|r| plan.reactor(r).map(|core| core.id)).collect();
        (dealt, plan.spare.iter().map(|core| core.id).collect())
    }

    #[test]
    fn reactors_come_first_and_the_rest_is_spare() {
        assert_eq!(plan(4, 3), (vec![Some(0), Some(1), Some(2)], vec![3]));
        assert_eq!(plan(1, 1), (vec![Some(0)], vec![]));
        assert_eq!(plan(2, 3), (vec![Some(0), Some(1), Some(0)], vec![]), "shared");
        assert_eq!(plan(0, 2), (vec![None, None], vec![]), "unknown");
    }

    #[test]
    fn a_thread_that_keeps_off_is_not_found_on_a_reactors_core() {
        let plan = CorePlan::new(1);
        if plan.spare.is_empty() {
            return;
        }
        let allowed = std::thread::spawn(move || {
            plan.keep_off();
            let spare = core_affinity::get_core_ids().unwrap();
            plan.give_back();
            (spare, CorePlan::new(1))
        });
        let all = CorePlan::new(1);
        let (spare, again) = allowed.join().unwrap();
        assert!(!spare.contains(&all.reactor(0).unwrap()));
        assert_eq!(again, all);
    }
}
