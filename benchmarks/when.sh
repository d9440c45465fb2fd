#!/usr/bin/env bash
# Make and measure the models of docs/when.md, in a checkout whose environment is active. To continue a stopped run,
# repeat it: what is there is kept.
#
#   benchmarks/when.sh smollm2 when/smollm2 64 65536 0.0001        # MODEL FOLDER WINDOWS TOKENS RATE
#   benchmarks/when.sh QWEN.gguf when/qwen 16 24576 0.00001 eval.samples=16 eval.items=100 'eval.texts=[novel]'
#
# WINDOWS of 128 tokens calibrate searches, repairs and zeros. Every training takes TOKENS tokens at RATE. ZEROS is the
# Python of an environment with llm-compressor. LLAMA is the unpacked source package of llama-cpp-python, which must be
# installed, too, with sentencepiece. Without ZEROS or LLAMA, the models that need it are left out.
set -euo pipefail
model=$1 folder=$2 windows=$3 tokens=$4 rate=$5
shift 5 # further words are settings of the measurement
results=$folder/results
mkdir -p "$folder"

made() { # made NAME COMMAND...: run a command that writes $folder/NAME.part, unless $folder/NAME is there
  if [ ! -e "$folder/$1" ]; then
    rm -rf "$folder/$1.part"
    "${@:2}"
    mv "$folder/$1.part" "$folder/$1"
  fi
}

# The dense model in bfloat16, and the same model after the training that the pruned models get.
dense() {
  python - "$model" "$folder" "$tokens" "$rate" "$1" <<'PYTHON'
import logging
import sys
from pathlib import Path

import pruning

logging.basicConfig(level=logging.INFO, format="%(message)s")
place, folder, tokens, rate, out = sys.argv[1:]
model = pruning.load_model(place, dtype="bfloat16")
if out.startswith("dense-trained"):
    nothing = pruning.Mask(model.n_blocks)
    steps = {"tokens": int(tokens), "lr": float(rate), "eval_every": 20}
    model = pruning.heal_mask(model, nothing, how="full", source="embedded", folder=f"{folder}/control", **steps)
if getattr(model.module.config, "quantization_config", None):  # a GGUF file: its weights are already expanded
    model.module.hf_quantizer = None
    del model.module.config.quantization_config
model.module.save_pretrained(Path(folder) / out)
model.tokenizer.save_pretrained(Path(folder) / out)
PYTHON
}
made dense dense dense.part

# The models of a search: its mask as it is, repaired by linear maps, and repaired and trained.
arm() {
  local name=$1 state how
  for state in pruned repaired trained; do
    if [ -e "$folder/$name-$state" ]; then continue; fi
    case $state in
      pruned) how=(compensation=none heal=none) ;;
      repaired) how=(heal=none) ;;
      trained) how=(heal=full heal.source=embedded heal.tokens="$tokens" heal.lr="$rate" heal.eval_every=20) ;;
    esac
    depth-pruning grid experiment=compress guide=false tracker=none paths.results="$results" study="$name-$state" \
      model=local model.path="$folder/dense" model.name=dense calibration.samples="$windows" \
      eval=novel eval.limit=2 "${@:2}" "${how[@]}" export="$folder/$name-$state"
    rm -rf "$results"/*/healed/trunk-*
  done
}
arm blocks-20 ratio=0.2
arm blocks-10 ratio=0.1
arm ShortGPT-20 ratio=0.2 objective=block_influence algo=one_shot racing.delta=null
arm SLEB-20 ratio=0.2 objective=perplexity
arm random-20 ratio=0.2 algo=random max_evaluations=1 racing.delta=null
made dense-trained dense dense-trained.part
rm -rf "$folder/control"
arm sublayers-20 ratio=0.2 unit=sublayer algo.lazy=0.05 # twice as many units: lazy rounds save half of the time
arm sublayers-10 ratio=0.1 unit=sublayer algo.lazy=0.05

# Zeros in the weights: a fifth of the weights, or two of every four.
if [ -n "${ZEROS:-}" ]; then
  for method in Wanda SparseGPT; do
    for zeros in 20:20 50:2:4; do
      name=$method-${zeros%%:*}
      made "$name" "$ZEROS" benchmarks/zeros.py "$folder/dense" "$results"/calibration/*.jsonl "$folder/$name.part" \
        "${method,,}" "${zeros#*:}"
    done
  done
fi

# Fewer bits: GGUF files of the dense model, and of trained models without blocks. In bfloat16 also of those without
# sub-layers, for their speed.
if [ -n "${LLAMA:-}" ]; then
  for source in dense {blocks,sublayers}-{10,20}-trained; do
    made "$source-BF16.gguf" python "$LLAMA/vendor/llama.cpp/convert_hf_to_gguf.py" "$folder/$source" \
      --outfile "$folder/$source-BF16.gguf.part" --outtype bf16
    if [[ $source = sublayers* ]]; then continue; fi
    for kind in Q8_0:7 Q5_0:8 Q4_0:2; do
      made "$source-${kind%:*}.gguf" python -c '
import sys
from llama_cpp import llama_cpp as llama
source, out, kind = sys.argv[1:]
how = llama.llama_model_quantize_default_params()
how.ftype = int(kind)
sys.exit(llama.llama_model_quantize(source.encode(), out.encode(), how))
' "$folder/$source-BF16.gguf" "$folder/$source-${kind%:*}.gguf.part" "${kind#*:}"
    done
  done
  [ -e "$folder/llamacpp.json" ] || python -m benchmarks.llamacpp_speed "$folder/llamacpp.json" "$folder"/*.gguf
fi

# The numbers of the page, without the speeds in transformers: measure these alone on an idle machine.
record() {
  python - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

folder, kept = Path(sys.argv[1]), ("metrics", "changes", "parameters", "disk", "memory")
path = max(folder.glob("compared/compared/*/compared.json"), key=lambda path: path.stat().st_mtime)
compared, timed = json.loads(path.read_bytes()), folder / "llamacpp.json"
rows = {row["name"]: {key: row[key] for key in kept} for row in compared["rows"]}
found = {"evaluation": compared["evaluation"], "models": rows}
found |= {"llamacpp": json.loads(timed.read_bytes())} if timed.exists() else {}
Path(folder / "when.json").write_text(json.dumps(found, indent=1) + "\n")
PYTHON
}

shopt -s nullglob
depth-pruning compare "$folder/dense" "$folder"/*-{trained,pruned,repaired} "$folder"/{Wanda,SparseGPT}-[25]0 \
  "$folder"/*-Q?_0.gguf paths.results="$folder/compared" eval=embedded "$@"
record
