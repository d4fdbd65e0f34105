//! From a mergeable state to a DataFusion aggregate: written once, for all functions.

use std::{
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray},
        datatypes::{DataType, Field, FieldRef},
    },
    common::exec_err,
    error::Result,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::format_state_name,
    },
    scalar::ScalarValue,
};

use crate::metrics::{binned::Limit, wire::Reader};

/// What a function needs of its state.
pub(super) trait State: Debug + Send + Sync + 'static {
    /// Adds rows, one array per argument, already of the types in the signature.
    fn update(&mut self, columns: &[ArrayRef]) -> Result<()>;
    /// Writes the state.
    fn encode(&self, out: &mut Vec<u8>);
    /// Adds a written state; `None` if it is cut short.
    fn merge_encoded(&mut self, reader: &mut Reader<'_>) -> Option<()>;
    /// The result. The state is not used afterwards.
    fn finish(&mut self) -> Result<ScalarValue>;
    /// Heap bytes.
    fn size(&self) -> usize;
}

/// How a function makes an empty state from its literal arguments.
pub(super) type NewState = fn(&AccumulatorArgs<'_>) -> Result<Box<dyn State>>;

/// Describes one function.
pub(super) fn function(name: &'static str, arguments: Vec<DataType>, returns: DataType, new: NewState) -> AggregateUDF {
    function_of(name, Signature::exact(arguments, Volatility::Immutable), returns, new)
}

/// Describes a function whose arguments are of no one type.
pub(super) fn function_of(name: &'static str, signature: Signature, returns: DataType, new: NewState) -> AggregateUDF {
    AggregateUDF::from(Function { name, signature, returns, new })
}

/// The text of a literal argument.
pub(super) fn literal_text(arguments: &AccumulatorArgs<'_>, position: usize) -> Result<String> {
    let literal = arguments
        .exprs
        .get(position)
        .and_then(|expression| expression.downcast_ref::<datafusion::physical_expr::expressions::Literal>())
        .and_then(|literal| literal.value().try_as_str().flatten().map(str::to_owned));
    if let Some(text) = literal {
        Ok(text)
    } else {
        exec_err!("argument {} of {} must be a text literal", position + 1, arguments.name)
    }
}

/// How much a state may keep: a literal behind the arguments that a function has without it, and behind the sampling rate if there is
/// one. `None`: everything.
pub(super) fn limit(arguments: &AccumulatorArgs<'_>, behind: usize) -> Result<Option<Limit>> {
    let Some(last) = arguments.exprs.len().checked_sub(1).filter(|last| *last >= behind) else { return Ok(None) };
    let literal = arguments.exprs[last].downcast_ref::<datafusion::physical_expr::expressions::Literal>();
    let Some(text) = literal.and_then(|literal| literal.value().try_as_str().flatten()) else { return Ok(None) };
    match serde_json::from_str::<Limit>(text) {
        Ok(limit) if limit.bins > 0 => Ok(Some(limit)),
        _ => exec_err!("{} may keep {{\"bins\": n}} with n above 0, not {text}", arguments.name),
    }
}

#[derive(Debug)]
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    new: NewState,
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl AggregateUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(StateAccumulator { name: self.name, state: (self.new)(&arguments)? }))
    }

    /// Large binary: the states of all groups share one array, and together pass 2 GB sooner than one alone.
    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(arguments.name, "state"), DataType::LargeBinary, true))])
    }
}

#[derive(Debug)]
struct StateAccumulator {
    name: &'static str,
    state: Box<dyn State>,
}

impl Accumulator for StateAccumulator {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        self.state.update(columns)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let Some(states) = states.first() else { return Ok(()) };
        for bytes in states.as_binary::<i64>().iter().flatten() {
            if self.state.merge_encoded(&mut Reader::new(bytes)).is_none() {
                return exec_err!("state of {} is cut short", self.name);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.state.encode(&mut bytes);
        Ok(vec![ScalarValue::LargeBinary(Some(bytes))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.state.finish()
    }

    fn size(&self) -> usize {
        size_of_val(self) + size_of_val(&*self.state) + self.state.size()
    }
}
