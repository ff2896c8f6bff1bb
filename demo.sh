#!/usr/bin/env bash
# The whole job on drawn faces, on two CPU cores and without a download: an old model, a new one by MixBCT, an
# independent new one, and the question which of them works with the old gallery.  Results in demo_output/.
cd "$(dirname "$0")"
source environment.sh requirements.txt

out=$PWD/demo_output
small="dataset=$out/dataset/ms1m-retinaface-t1 feature_save=$out/feature_save network=mbf image_size=32
       batch_size=64 warmup_epoch=1 scale=16 margin_list=(1.0,0.2,0.0) val_targets=['rehearsal'] frequent=30 workers=1"
old=f128_r18_softmax
evaluate="python $PWD/tools/ijbc_eval/ijbc_eval.py -d $out/dataset/ijb --out $out/ijbc_result --workers 2"
step() { printf '\n== %s (%d s since the start)\n' "$*" $SECONDS; }

SECONDS=0
step "Draw faces: a training set, verification pairs, an IJB-C look-alike"
python tools/rehearsal/make_rehearsal.py --out "$out/dataset" --size 32 --identities 500 --images 12 \
    --eval-identities 180 --pairs 400
python tools/split_dataset/split_dataset_ms1mv3.py --data "$out/dataset/ms1m-retinaface-t1"

step "1  Old model: softmax on 30 % of the identities"
python train_old_softmax.py configs/${old}_class30.py $small num_epoch=8 lr=0.1 output="$out/old"

step "2  Its features of the other 70 %, and which of them are credible"
python tools/get_feature/get_feature.py configs/${old}_class30.py --SD ${old}_class70 $small output="$out/old"
python tools/get_feature/denoise_credible.py --T 0.9 --SD ${old}_class70 --feature-save "$out/feature_save"

step "3  New models on the 70 %, side by side: by MixBCT, and without the old model (the paragon)"
export OMP_NUM_THREADS=1        # one core each
(cd BCT_Methods/MixBCT && exec python train.py configs/OPclass_ms1mv3_r18_to_r50_MixBCT_softmax_to_arc_f128.py \
    $small num_epoch=6 lr=0.2 clip=100 old_model="$out/old/model.pt" output="$out/MixBCT") &
python train_old_arc.py configs/f128_r50_arc_data100.py $small num_epoch=6 lr=0.2 clip=100 rec=train_part_70_class \
    output="$out/independent" 2> "$out/independent.log"
wait $!
unset OMP_NUM_THREADS

step "4  Evaluation: each model alone, and new queries against the old gallery; 1:1 and 1:N"
for search in "" -N; do
    $evaluate -m="$out/old/model.pt" -net=mbf $search
    for new in MixBCT independent; do
        $evaluate -m="$out/$new/model.pt" -net=mbf $search
        $evaluate -m="$out/$new/model.pt" -net=mbf -m_old="$out/old/model.pt" -old_net=mbf $search
    done
done

step "Verdict"
python tools/verdict/verdict.py "$out/ijbc_result" --old old --new MixBCT --paragon independent --out "$out"
step "done"
