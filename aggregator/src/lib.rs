//! raw/ to history/: follows the chains, routes labels, decides what to judge, and judges.
