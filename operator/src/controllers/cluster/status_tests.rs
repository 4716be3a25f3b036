//! Statuses, case by case.
