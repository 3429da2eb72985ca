//! A prompt by itself, looked into layer by layer.

use std::ops::ControlFlow;

use super::staged::{OnProbe, StagedTurn};
use super::{Cache, Decoder, failed, turns};
use crate::engine::prompt::EncodedPrompt;
use crate::engine::{CancelHandle, Error, prefill};
use crate::ffi;
use crate::policy::StagePolicy;
use crate::policy::trace::PrefillTrace;

impl Cache {
    /// Reads a whole prompt into a sequence that shares nothing, looking into every layer that is probed. There is none if
    /// it was stopped.
    pub(crate) fn read_alone(
        &mut self,
        prompt: &EncodedPrompt,
        policy: &mut dyn StagePolicy,
        cancel: &CancelHandle,
        on_progress: &mut dyn FnMut(f32) -> ControlFlow<()>,
        on_probe: OnProbe<'_>,
    ) -> Result<Option<(ffi::Sequence, PrefillTrace)>, Error> {
        let (cuts, model) = (self.cuts.clone().unwrap_or_default(), self.model.clone());
        let Self {
            context,
            store,
            params,
            ..
        } = self;
        let Some(context) = context.as_mut() else {
            return Ok(None);
        };
        let sequence = context.new_sequence().map_err(failed("the prompt"))?;
        let added = context.add(&sequence, &prompt.rows(0..prompt.layout.n_rows));
        added.map_err(failed("the prompt"))?;
        let layout = &prompt.layout;
        let input = turns::Input::new(&model, &cuts, prompt, layout, context);
        let mut before_call = |done: f32, _: &mut Decoder<'_>| on_progress(done);
        let result = context.watching(cancel.flag(), |context| {
            let decoder = Decoder {
                context,
                store,
                model: &model,
                n_ctx: params.n_ctx as usize,
            };
            let mut engine =
                StagedTurn::new(decoder, &sequence, layout.n_rows, 0, &mut before_call, on_probe);
            input.run(&mut engine, prefill::Shared::default(), policy)
        });
        let trace = turns::unless_stopped(result)?;
        Ok(trace
            .filter(|_| on_progress(1.0).is_continue())
            .map(|trace| (sequence, trace)))
    }
}
