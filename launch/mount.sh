#!/usr/bin/env bash
# Makes a Cloud Storage bucket a folder of this machine: bash mount.sh BUCKET FOLDER
set -euo pipefail
bucket=$1 folder=$2

if mountpoint -q "$folder"; then exit 0; fi
if ! command -v gcsfuse >/dev/null; then
  # As in Google's guide to installing Cloud Storage FUSE.
  release=gcsfuse-$(lsb_release -c -s)
  curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg |
    sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt $release main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -o DPkg::Lock::Timeout=300 update -qq
  sudo apt-get -o DPkg::Lock::Timeout=300 install -qq -y gcsfuse
fi
sudo mkdir -p "$folder"
sudo chown "$(id -u):$(id -g)" "$folder"
gcsfuse --implicit-dirs --metadata-cache-ttl-secs 60 "$bucket" "$folder"
