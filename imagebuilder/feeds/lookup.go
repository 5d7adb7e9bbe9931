package feeds

// CompareVersions orders two versions as the universe's package manager does:
// negative where a is older than b.
func (u *Universe) CompareVersions(a, b string) int { return u.compareVersions(a, b) }

// Lookup returns what Find does, with the feeds that the packages are in.
func (u *Universe) Lookup(name string) []Selected {
	var found []Selected
	for _, i := range u.find(name) {
		found = append(found, u.selected(i))
	}
	return found
}
