//! Names that are given twice.

/// What is named, in order, and once where it is named twice.
pub(super) fn distinct<T: Clone + PartialEq>(named: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in named {
        if !distinct.contains(one) {
            distinct.push(one.clone());
        }
    }
    distinct
}
