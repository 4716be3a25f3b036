//! Random lives of a Cluster (see below).
