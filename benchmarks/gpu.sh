#!/bin/sh
# Everything that waits for a CUDA GPU, in one go: tests/gpu, the losses, whole steps in each
# precision, every engine on every network. Results go to benchmarks/results; the tables come last.
#
#     sh benchmarks/gpu.sh          from the checkout, with roadshift[test] installed
cd "$(dirname "$0")/.." || exit 1
python -m pytest -q -o addopts=--import-mode=importlib tests/gpu  # one process: one GPU
status=$?
python benchmarks/losses.py --device cuda --batch 2 > /dev/null || status=1
made="benchmarks/results/losses-cuda.md"
for case in "fast_scnn 1024x512 6" "deeplab_v2_resnet101 512x256 6" "deeplab_v2_vgg16 512x256 6"; do
    # shellcheck disable=SC2086
    set -- $case
    for amp in off auto; do
        out="benchmarks/results/step-$1-cuda-$amp"
        python benchmarks/step.py --device cuda --network "$1" --size "$2" --batch "$3" \
            --amp "$amp" --methods iapc,nightshift --out "$out" > /dev/null || status=1
        made="$made $out.md"
    done
done
python benchmarks/precision.py --device cuda --size 512x256 --batch 4 > /dev/null || status=1
made="$made benchmarks/results/precision-cuda.md"
python benchmarks/engines.py --device cuda > /dev/null || status=1
made="$made benchmarks/results/engines-cuda.md"
for table in $made; do
    echo "== $table"
    cat "$table"
done
exit $status
