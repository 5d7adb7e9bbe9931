package upstream

// snapshotName is the branch, and the version, of the main branch's snapshots.
const snapshotName = "SNAPSHOT"

const releasePath = "releases/{version}"

// knownBranches are facts that upstream does not publish: the revision at
// which a branch left the main one (openwrt/asu asu/config.py).
var knownBranches = []BranchConfig{
	{Name: snapshotName, Path: "snapshots", Snapshot: true},
	{Name: "25.12", BranchOffRev: 32295},
	{Name: "24.10", BranchOffRev: 27990},
	{Name: "23.05", BranchOffRev: 23069},
	{Name: "22.03", BranchOffRev: 19160},
	{Name: "21.02", BranchOffRev: 15812},
	// Branches before 21.02 are listed by upstream but cannot be served: the
	// reference's table ends here, as their builds lack the metadata.
	{Name: "19.07", Disabled: true},
	{Name: "18.06", Disabled: true},
	{Name: "17.01", Disabled: true},
}
