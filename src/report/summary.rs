//! The report in two lines, for people.
