//! The gateway: sessions with the agents of Sites.
