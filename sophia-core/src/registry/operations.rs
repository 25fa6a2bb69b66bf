//! The operations of this capability.

crate::operations::operations! {}
