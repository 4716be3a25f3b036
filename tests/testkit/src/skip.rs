//! Tests that need programs which may not be there: they fail in CI and say loudly elsewhere that they were left out.

use crate::{Result, machine, realnode, tools};

/// What a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A control plane and simulated nodes.
    Core,
    /// kube-scheduler's filter plugins.
    Filters,
    /// A kubelet with containers: root, runc and more programs.
    RealNode,
    /// The same on hosts with networks of their own: iptables too.
    Machines,
}

impl Need {
    /// What is missing, if anything.
    pub fn check(self) -> Result<()> {
        let tools: &[&[&str]] = match self {
            Need::Core => &[tools::CORE],
            Need::Filters => &[tools::FILTERS],
            Need::RealNode | Need::Machines => {
                realnode::supported()?;
                if self == Need::Machines {
                    machine::supported()?;
                }
                &[tools::CORE, tools::REAL_NODE]
            }
        };
        for tool in tools.iter().copied().flatten() {
            tools::path(tool)?;
        }
        Ok(())
    }

    /// Whether the test can run.
    ///
    /// # Panics
    /// In CI (`CI=true`) what is missing fails the test.
    #[must_use]
    pub fn met(self) -> bool {
        let Err(missing) = self.check() else {
            return true;
        };
        let in_ci = std::env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
        assert!(!in_ci, "in CI this test must run: {missing}");
        // Straight to the terminal: the test harness hides what passing tests print.
        let thread = std::thread::current();
        let line = format!("SKIPPED {}: {missing}\n", thread.name().unwrap_or("test"));
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        false
    }
}

/// Ends the test here, loudly, unless what it needs is there:
/// `require!(Core)`, `require!(Filters)`, `require!(RealNode)` or `require!(Machines)`; with a second argument, the
/// value to return.
#[macro_export]
macro_rules! require {
    ($need:ident) => {
        $crate::require!($need, ())
    };
    ($need:ident, $value:expr) => {
        if !$crate::skip::Need::$need.met() {
            return $value;
        }
    };
}
