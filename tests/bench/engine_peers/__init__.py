"""What other engines take for the stages of `tests.bench.engine`, each in an environment of its own under build/.

`environments.py` makes the environments. `vllm_cpu.py`, `llama_cpp.py` and `openvino_genai.py` run inside them, so they
import nothing of this repository but `stages.py`, which needs the standard library only.
"""
