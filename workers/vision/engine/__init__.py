"""What turns a prompt and tiles into text. One request's way through the files, in the order to read them:

base            what every engine is: a request goes in, events come out; errors, stats
factory         which engine the settings ask for: resident, transformers (the oracle), echo (for tests)
assembly        the resident engine's parts, sized for a device; device_paths checks what makes a GPU fast
engine_thread   submit puts a request into the inbox of the one thread that owns the device
handle          the request between its caller and that thread: events, cancel, timings
sequence        the request inside: its tokens, where its tiles stand (tile_spans), what it has said (detokenize)
core            the step: schedule, launch, sample, settle
scheduler       which tiles and rows are next, within step_budget; schedule is what it says
page_tables     the pages that hold a sequence's keys and values, by number in page_pool; feature_cache the tiles'
model_runner    packs the rows, calls the model (`workers/vision/model`) and keeps the chosen tokens on the device
sampler         the next token of each row; beam_search where several continuations compete
step_timer      how long the parts took, which is the next step_budget; step_allowance when a step counts as hanging
collector       what the engine counted, as metrics
"""
