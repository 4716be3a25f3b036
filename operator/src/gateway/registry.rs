//! Which Sites have a session here, and what has changed for each of them.
//!
//! News is kept as marks, not as messages: a session that is slow finds the newest content when it looks, and nothing
//! grows with the number of changes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use atoll_api::Site;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Why a session ends that its agent did not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A newer session of the Site has begun, here or at another gateway.
    Superseded,
    /// The Site was suspended.
    Suspended,
    /// The Site's Supplier was suspended.
    SupplierSuspended,
    /// The Site was deleted.
    Unknown,
    /// Somebody has called the Site lost: nothing more may be granted in this session.
    CalledLost,
}

/// What a session is told.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Number of the session; 0 until it is known.
    number: AtomicI64,
    /// The Site's Supplier, once it is known.
    supplier: Mutex<String>,
    slices: Mutex<HashSet<String>>,
    models: AtomicBool,
    news: Notify,
    end: OnceLock<End>,
    /// Cancelled when `end` is set.
    ended: CancellationToken,
    /// Cancelled when the session grants nothing any more.
    pub quiet: CancellationToken,
    /// Before this the next session of the Site is not noted; each one costs the API a write.
    not_before: Mutex<Option<Instant>>,
}

/// News for a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Keys of slices that changed.
    pub slices: HashSet<String>,
    /// The catalogue changed.
    pub models: bool,
}

impl Mailbox {
    /// Waits until the session may be noted, after which the next one waits so long.
    pub async fn breath(&self, length: Duration) {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(not_before) = not_before {
            tokio::time::sleep_until(not_before).await;
        }
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + length);
    }

    /// Notes the number of the session.
    pub fn numbered(&self, number: i64) {
        self.number.store(number, Ordering::SeqCst);
    }

    /// Waits for news and takes it. Cancelling the wait loses nothing.
    pub async fn news(&self) -> News {
        loop {
            let news = News {
                slices: std::mem::take(&mut *self.slices.lock().unwrap_or_else(PoisonError::into_inner)),
                models: self.models.swap(false, Ordering::SeqCst),
            };
            if news != News::default() {
                return news;
            }
            self.news.notified().await;
        }
    }

    /// Ends the session, unless something else has before.
    pub fn end(&self, end: End) {
        // The first reason is the one that counts.
        let _: Result<(), End> = self.end.set(end);
        self.ended.cancel();
    }

    /// Waits until the session is to end.
    pub async fn ended(&self) -> End {
        self.ended.cancelled().await;
        self.end.get().copied().unwrap_or(End::Superseded)
    }

    /// Cancelled when the session is to end.
    #[must_use]
    pub fn end_token(&self) -> &CancellationToken {
        &self.ended
    }

    fn of(&self, supplier: &str) {
        supplier.clone_into(&mut self.supplier.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_of(&self, supplier: &str) -> bool {
        *self.supplier.lock().unwrap_or_else(PoisonError::into_inner) == supplier
    }

    fn slice_changed(&self, key: &str) {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned());
        self.news.notify_one();
    }

    fn models_changed(&self) {
        self.models.store(true, Ordering::SeqCst);
        self.news.notify_one();
    }
}

/// The sessions of this gateway, by Site; one that has lost its stream stays until it is superseded or noted as lost.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: Mutex<HashMap<String, Arc<Mailbox>>>,
}

impl Registry {
    /// Begins a session and ends the one before it, which is returned.
    pub fn begin(&self, site: &str) -> (Arc<Mailbox>, Option<Arc<Mailbox>>) {
        let mailbox = Arc::new(Mailbox::default());
        let older = self.lock().insert(site.to_owned(), Arc::clone(&mailbox));
        if let Some(older) = &older {
            older.end(End::Superseded);
            let not_before = *older.not_before.lock().unwrap_or_else(PoisonError::into_inner);
            *mailbox.not_before.lock().unwrap_or_else(PoisonError::into_inner) = not_before;
        }
        (mailbox, older)
    }

    /// Forgets a session, unless a newer one has taken its place.
    pub fn forget(&self, site: &str, mailbox: &Arc<Mailbox>) {
        let mut sessions = self.lock();
        if sessions.get(site).is_some_and(|present| Arc::ptr_eq(present, mailbox)) {
            sessions.remove(site);
        }
    }

    /// Whether a Site has a session here.
    #[must_use]
    pub fn keeps(&self, site: &str) -> bool {
        self.lock().contains_key(site)
    }

    /// A slice of a Site changed or vanished.
    pub fn slice_changed(&self, site: &str, key: &str) {
        if let Some(mailbox) = self.lock().get(site) {
            mailbox.slice_changed(key);
        }
    }

    /// The catalogue changed.
    pub fn models_changed(&self) {
        self.lock().values().for_each(|mailbox| mailbox.models_changed());
    }

    /// A Site changed or vanished.
    pub fn site_changed(&self, name: &str, site: Option<&Site>) {
        let Some(mailbox) = self.lock().get(name).cloned() else { return };
        let number = mailbox.number.load(Ordering::SeqCst);
        let Some(site) = site else { return mailbox.end(End::Unknown) };
        mailbox.of(&site.spec.supplier);
        if site.spec.suspended {
            return mailbox.end(End::Suspended);
        }
        let newest = site.status.as_ref().and_then(|status| status.session.as_ref());
        match newest.filter(|_| number > 0) {
            Some(newest) if newest.number > number => mailbox.end(End::Superseded),
            Some(newest) if newest.number == number && newest.last_grant.is_some() => mailbox.end(End::CalledLost),
            _ => {}
        }
    }

    /// A Supplier is suspended: the sessions of its Sites end.
    pub fn supplier_suspended(&self, supplier: &str) {
        self.lock().values().filter(|mailbox| mailbox.is_of(supplier)).for_each(|mailbox| {
            mailbox.end(End::SupplierSuspended);
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Mailbox>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use atoll_api::{SiteSession, SiteStatus};
    use futures::FutureExt as _;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::fixtures;
    use super::*;

    fn called_lost(mut site: Site) -> Site {
        let session = site.status.as_mut().and_then(|status| status.session.as_mut()).unwrap();
        session.last_grant = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        site
    }

    fn site(number: i64, suspended: bool) -> Site {
        let mut site = fixtures::site("site-a");
        site.spec.suspended = suspended;
        let session = Some(SiteSession { number, ..SiteSession::default() });
        site.status = Some(SiteStatus { session, ..SiteStatus::default() });
        site
    }

    #[test]
    fn a_newer_session_ends_the_older_and_the_older_does_not_forget_the_newer() {
        let registry = Registry::default();
        let (first, none) = registry.begin("site-a");
        assert!(none.is_none());
        let (second, older) = registry.begin("site-a");
        assert!(Arc::ptr_eq(&first, &older.unwrap()));
        assert_eq!(first.ended().now_or_never(), Some(End::Superseded));
        assert_eq!(second.ended().now_or_never(), None);
        registry.forget("site-a", &first);
        assert!(registry.keeps("site-a"));
        registry.forget("site-a", &second);
        assert!(!registry.keeps("site-a"));
    }

    #[test]
    fn a_session_ends_when_its_site_is_suspended_deleted_or_elsewhere() {
        for (name, changed, end) in [
            ("older news", Some(site(2, false)), None),
            ("itself", Some(site(3, false)), None),
            ("elsewhere", Some(site(4, false)), Some(End::Superseded)),
            ("called lost", Some(called_lost(site(3, false))), Some(End::CalledLost)),
            ("an older one called lost", Some(called_lost(site(2, false))), None),
            ("suspended", Some(site(3, true)), Some(End::Suspended)),
            ("deleted", None, Some(End::Unknown)),
        ] {
            let registry = Registry::default();
            let (mailbox, _) = registry.begin("site-a");
            mailbox.numbered(3);
            registry.site_changed("site-b", None);
            registry.site_changed("site-a", changed.as_ref());
            assert_eq!(mailbox.ended().now_or_never(), end, "{name}");
        }
    }

    #[test]
    fn the_sessions_of_a_suspended_supplier_s_sites_end_and_no_others() {
        let registry = Registry::default();
        let [(a, _), (b, _), (other, _)] = ["site-a", "site-b", "site-c"].map(|site| registry.begin(site));
        for (site, supplier) in [("site-a", "acme"), ("site-b", "acme"), ("site-c", "other")] {
            let mut object = fixtures::site(site);
            supplier.clone_into(&mut object.spec.supplier);
            registry.site_changed(site, Some(&object));
        }
        registry.supplier_suspended("acme");
        assert_eq!(a.ended().now_or_never(), Some(End::SupplierSuspended));
        assert_eq!(b.ended().now_or_never(), Some(End::SupplierSuspended));
        assert_eq!(other.ended().now_or_never(), None);
    }

    #[test]
    fn before_its_number_is_known_a_session_is_not_taken_for_an_older_one() {
        let registry = Registry::default();
        let (mailbox, _) = registry.begin("site-a");
        registry.site_changed("site-a", Some(&site(7, false)));
        assert_eq!(mailbox.ended().now_or_never(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_a_site_are_noted_once_a_second_and_those_of_another_do_not_wait() {
        let (registry, second) = (Registry::default(), Duration::from_secs(1));
        let start = Instant::now();
        for number in 0..5 {
            let (mailbox, _) = registry.begin("site-a");
            mailbox.breath(second).await;
            assert_eq!(start.elapsed(), second * number);
        }
        let (given_up, _) = registry.begin("site-a");
        assert_eq!(given_up.breath(second).now_or_never(), None);
        let (next, _) = registry.begin("site-a");
        assert_eq!(next.breath(second).now_or_never(), None, "who gives up hands its wait on");
        assert_eq!(registry.begin("site-b").0.breath(second).now_or_never(), Some(()));
    }

    #[test]
    fn news_is_merged_until_it_is_taken() {
        let registry = Registry::default();
        let (mailbox, _) = registry.begin("site-a");
        assert_eq!(mailbox.news().now_or_never(), None);
        for key in ["default/a", "default/b", "default/a"] {
            registry.slice_changed("site-a", key);
        }
        registry.slice_changed("site-b", "default/c");
        registry.models_changed();
        let news = mailbox.news().now_or_never().unwrap();
        assert_eq!(news.slices.len(), 2);
        assert!(news.models);
        assert_eq!(mailbox.news().now_or_never(), None);
    }
}
