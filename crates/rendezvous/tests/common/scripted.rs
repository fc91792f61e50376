//! A server that follows a script, for what honest servers never do.
