//! What `osps check` tells.
