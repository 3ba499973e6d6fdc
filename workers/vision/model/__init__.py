"""The model on its devices. torch lives here. From files to logits, in the order to read them:

weights, fused                      logical weights out of a checkpoint's files; q|k|v and gate|up in one
device, placement, loader           which device and number type; which part where; loading with progress
vision_language_model               vision_encoder (pixels, norm) and decoder (rotary, attention, linear)
packed_batch, kv_pages              the rows of a step, and the memory of their keys and values
fast_path                           whether a faster way is right and not slower than plain torch, on this device
cpu_kernels, cpu_library, kernels/  such ways on a CPU; packed_weights is what its linear layers read
gpu_kernels, paged_attention        such ways on a GPU; graph, tower_graphs, decode_steps replay, transfers queue
hf_model, image_features, quantise  transformers' model of the same weights, for the engine that is the oracle
"""
