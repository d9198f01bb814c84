#!/bin/sh
# The whole training at toy size, in minutes on a CPU: it shows that every stage runs on your photos
# and your machine. The networks have seen four batches and are of no use.
#
#   runs/smoke.sh PHOTOS OUT
#
# PHOTOS is a folder of a dozen photos or more, OUT a new folder. The same line resumes.
set -eu
photos=$1
out=$2

faceshifter prepare "$photos" --out "$out/faces" --size 64
faceshifter train identity --run "$out/identity" --data "$out/faces" --teachers distilled dlib smoke
faceshifter train aei --run "$out/aei" --data "$out/faces" \
    smoke --identity "$out/identity/weights.safetensors"
faceshifter rank-errors "$out/faces" --aei "$out/aei/weights.safetensors" \
    --identity "$out/identity/weights.safetensors" --out "$out/errors"
faceshifter train hear --run "$out/hear" --data "$out/faces" --aei "$out/aei/weights.safetensors" \
    --identity "$out/identity/weights.safetensors" --errors "$out/errors" smoke

mkdir -p "$out/weights"
cp "$out/aei/weights.safetensors" "$out/weights/aei.safetensors"
cp "$out/hear/weights.safetensors" "$out/weights/hear.safetensors"
echo "faceshifter swap SOURCE TARGET --weights $out/weights" \
    "--identity $out/identity/weights.safetensors --out RESULT swaps with them"
