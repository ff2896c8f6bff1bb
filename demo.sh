#!/usr/bin/env bash
# The whole job on synthetic faces, on two CPU cores and without a download: an old model, new models by MixBCT and without
# the old model (the paragon), and the page that shows which of them can replace the old one.  Results in demo_output/.
#     bash demo.sh [--all]        --all: new models by every method, results in demo_output/all/
set -euo pipefail
cd "$(dirname "$0")"
case "${1:-}" in
    "") methods=MixBCT ;;
    --all) methods=MixBCT,L2,weakenedL2,BCT,BCT_as_published=BCT,UniBCT,NCCL,AdvBCT ;;
    *) echo "usage: bash demo.sh [--all]" >&2; exit 2 ;;
esac
source environment.sh requirements.txt
out=demo_output${1:+/all}

SECONDS=0
echo "== Make synthetic faces: a training set, verification pairs, an evaluation set in IJB-C's layout"
python tools/rehearsal/make_rehearsal.py --out "$out/dataset" --size 32 --identities 500 --images 12 \
    --eval-identities 300 --pairs 400

# The settings of --small, with half of its epochs. UniBCT refines in epochs 2 and 5 of 8, as in 10 and 20 of 35.
settings=(num_epoch=8 "val_targets=['rehearsal']")
[ $# = 0 ] || settings+=(BCT_as_published:bct_scale=1 "UniBCT:refine_epoch=[2,5]")
bash reproduce.sh OPclass --small --family softmax_to_arc_f128 --methods "$methods" --records "$out/dataset/ms1m-retinaface-t1" \
    --ijb "$out/dataset/ijb" --out "$out" --title "Synthetic faces: can the new model replace the old one?" "${settings[@]}"
echo "== $SECONDS s; the result is the page $out/compare/index.html"
