#!/bin/sh
# Weights like those that ship: 128 x 128, on a CPU.
#
#   runs/tiny.sh PHOTOS TEACHER CUTOUTS OUT
#
# PHOTOS is a folder of photos or of tars of photos (17,000 photos made what ships), TEACHER a face
# recogniser as TorchScript (EdgeFace-XS), CUTOUTS a folder or tar of RGBA cut-outs of hands and
# objects, OUT a new folder. The same line resumes.
#
# What ships was not made by this script. It was made in some twenty shorter runs with settings that
# were changed on the way, partly in bfloat16 and by two processes, and AEI-Net is the mean of two
# runs' weights (docs/model-card.md has each run). The recipes below hold the settings that came out
# of that, in one schedule each, at higher learning rates than the last of those runs; they have not
# been run to their end in this form. The sizes and times of docs/model-card.md are those of the
# shorter runs: 448,000 faces in 26 minutes for the encoder, 183,808 pairs in five and a half hours
# for AEI-Net, 31,136 pairs in 46 minutes for HEAR-Net, on two cores.
set -eu
photos=$1
teacher=$2
cutouts=$3
out=$4
identity=$out/identity/weights.safetensors

faceshifter prepare "$photos" --out "$out/faces" --yunet yunet

# The encoder that makes z_id: dlib's network, compressed, learns what both teachers say.
faceshifter train identity --run "$out/identity" --data "$out/faces" --teachers "$teacher" dlib tiny

# Stage one: identity first; then on from those weights, attributes and reconstruction ahead.
# Half of the identity loss is the teacher's.
faceshifter train aei --run "$out/aei-first" --data "$out/faces" \
    tiny --identity "$identity" --teachers "$teacher"
faceshifter train aei --run "$out/aei" --data "$out/faces" \
    --init "$out/aei-first/weights.safetensors" --occluders "$cutouts" \
    tiny-longer --identity "$identity" --teachers "$teacher"

# Stage two, over the faces that stage one loses most of.
faceshifter rank-errors "$out/faces" --aei "$out/aei/weights.safetensors" --identity "$identity" \
    --occluders "$cutouts" --out "$out/errors"
faceshifter train hear --run "$out/hear" --data "$out/faces" --aei "$out/aei/weights.safetensors" \
    --identity "$identity" --errors "$out/errors" --occluders "$cutouts" \
    tiny --teachers "$teacher"

mkdir -p "$out/weights"
cp "$out/aei/weights.safetensors" "$out/weights/aei.safetensors"
cp "$out/hear/weights.safetensors" "$out/weights/hear.safetensors"
