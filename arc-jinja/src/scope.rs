//! Where names are looked up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::budget::Budget;
use crate::error::Result;
use crate::value::Value;

/// The names of a loop's turn, a macro or a block, and what is around it.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    names: RefCell<HashMap<Arc<str>, Value>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(crate) fn within(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::default(), parent: Some(parent.clone()) })
    }

    pub(crate) fn set(&self, name: &Arc<str>, value: Value) {
        self.names.borrow_mut().insert(name.clone(), value);
    }

    pub(crate) fn get(&self, name: &Arc<str>, budget: &Budget) -> Result<Option<Value>> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            budget.spend(1)?;
            if let Some(value) = here.names.borrow().get(name) {
                return Ok(Some(value.clone()));
            }
            scope = here.parent.as_deref();
        }
        Ok(None)
    }

    /// Forgets its names: a macro holds the scope that holds it.
    pub(crate) fn clear(&self) {
        let names = self.names.take();
        drop(names);
    }
}
