//! Options are made with what they cannot do without, and the rest is set by methods of the fields' names,
//! so that further ones can come.

/// Writes a method for each field of a struct that gives the struct with another value there.
///
/// The crates of this project share it; it is no part of the interface.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($name:ident { $($field:ident: $type:ty),+ $(,)? }) => {
        impl $name {
            $(
                #[doc = concat!("The same with [`", stringify!($name), "::", stringify!($field), "`](#structfield.", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $type) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}
