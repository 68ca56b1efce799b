# shellcheck shell=bash
# Kubernetes' own programs and its neighbours, compiled once from the modules beside this file, whose go.sum files pin them.
#
# Each module has a directory in the cache for each state of its files; `bin` has links to what this checkout pins.

readonly KUBERNETES_CACHE=$HOME/.cache/vouchsafe-kubernetes
readonly KUBERNETES_VERSION=1.36.3
# module=program=package, in the order in which they are compiled.
readonly KUBERNETES_PROGRAMS=(
  kubernetes=etcd=go.etcd.io/etcd/server/v3
  kubernetes=kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
  kubernetes=kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
  kubernetes=kubectl=k8s.io/kubernetes/cmd/kubectl
  kubernetes=kubemark=k8s.io/kubernetes/cmd/kubemark
  kubernetes=csi-registrar=./csi-registrar
  spire-controller-manager=spire-controller-manager=github.com/spiffe/spire-controller-manager/cmd
  spiffe-csi=spiffe-csi-driver=github.com/spiffe/spiffe-csi/cmd/spiffe-csi-driver
  spiffe-helper=spiffe-helper=github.com/spiffe/spiffe-helper/cmd/spiffe-helper
  csi-sanity=csi-sanity=github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
)

# Sets KUBERNETES_BIN to the directory that holds all of them.
kubernetes_binaries() {
  local entry module program package built=0
  KUBERNETES_BIN=$KUBERNETES_CACHE/bin
  export KUBERNETES_BIN
  mkdir -p "$KUBERNETES_BIN"
  exec 8>"$KUBERNETES_CACHE/.lock"
  flock 8
  for entry in "${KUBERNETES_PROGRAMS[@]}"; do
    IFS='=' read -r module program package <<<"$entry"
    kubernetes_program "$module" "$program" "$package"
  done
  controller_manager_files
  flock -u 8
  exec 8>&-
  check ok kubernetes.binaries "${#KUBERNETES_PROGRAMS[@]} programs, $built of them compiled now"
}

# kubernetes_program <module> <name> <package>: compiles it unless that was done, and links to it.
kubernetes_program() {
  local folder began=$SECONDS
  folder=$(kubernetes_module_folder "$1")
  if [[ ! -x $folder/$2 ]]; then
    echo "compiling $2" >&2
    mkdir -p "$folder"
    compile "$1" "$folder/.$2.new" "$3" >"$RUN/logs/build-$2.log" 2>&1 || die "$2 does not build"
    mv "$folder/.$2.new" "$folder/$2"
    built=$((built + 1))
    echo "compiled $2 in $((SECONDS - began)) s" >&2
  fi
  ln -sfn "$folder/$2" "$KUBERNETES_BIN/$2"
}

kubernetes_module_folder() {
  local version
  version=$(cd "$INTEROP/kubernetes/$1" && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-12)
  echo "$KUBERNETES_CACHE/$1-$version"
}

# compile <module> <file> <package>. Two packages at a time: the linker alone may take 1.8 GB. Without the version in the
# binaries, clients misjudge the server.
compile() {
  local flags='-s -w' package
  if [[ $1 == kubernetes && $3 == k8s.io/* ]]; then
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      flags+=" -X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=${KUBERNETES_VERSION%%.*}"
      flags+=" -X $package.gitMinor=$(cut -d . -f 2 <<<"$KUBERNETES_VERSION") -X $package.gitTreeState=archive"
    done
  fi
  (cd "$INTEROP/kubernetes/$1" \
    && CGO_ENABLED=0 nice -n 10 go build -p 2 -mod=readonly -buildvcs=false -trimpath -ldflags="$flags" -o "$2" "$3")
}

# The CRDs and roles of spire-controller-manager, beside the programs.
controller_manager_files() {
  local folder module
  folder=$(kubernetes_module_folder spire-controller-manager)/spire-controller-manager.config
  if [[ ! -d $folder ]]; then
    module=$(cd "$INTEROP/kubernetes/spire-controller-manager" && go mod download github.com/spiffe/spire-controller-manager \
      && go list -m -f '{{.Dir}}' github.com/spiffe/spire-controller-manager) || die "no sources of spire-controller-manager"
    rm -rf "$folder.new"
    cp -r --no-preserve=mode "$module/config" "$folder.new"
    mv "$folder.new" "$folder"
  fi
  ln -sfn "$folder" "$KUBERNETES_BIN/spire-controller-manager.config"
}
