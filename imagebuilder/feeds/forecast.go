package feeds

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Observation is a finished build: what its packages weigh and what became of
// them. Observations that are compared are of one target and branch.
type Observation struct {
	Profile    string
	Filesystem string // of the image: "squashfs"
	Download   int64  // bytes of its packages' files, Weight.Download
	Flash      int64  // bytes of the image that upgrades the device
}

// Verdict says whether an image will fit into its device.
type Verdict string

// The verdicts.
const (
	Fits           Verdict = "fits"
	Tight          Verdict = "tight"   // it may and may not
	TooBig         Verdict = "too_big" // it will not
	VerdictUnknown Verdict = "unknown"
)

// Forecast says how large an image will be. It is an estimate: no build is
// refused for it.
type Forecast struct {
	Verdict  Verdict `json:"verdict"`
	Estimate int64   `json:"estimate"` // bytes of the image; 0 unknown
	Low      int64   `json:"low"`      // the image has from Low to High bytes
	High     int64   `json:"high"`     //   in 19 of 20 cases
	Limit    int64   `json:"limit"`    // bytes that the device takes; 0 unknown
	Over     int64   `json:"over"`     // bytes that the estimate is above the limit
	Detail   string  `json:"detail"`   // a sentence
	Largest  []Sized `json:"largest"`  // the optional packages that take most, at most 5
}

// What is assumed of images as long as little was seen, in bytes.
const (
	// sector is what flash images are padded to.
	sector = 64 << 10
	// noise is by how much images miss the straight line: the padding, and
	// that packages compress the better the more like each other they are.
	noise = 40 << 10
	// unlikeProfiles is by how much the overheads of a target's profiles
	// differ: loaders, device trees, headers, padding to an offset.
	unlikeProfiles = 384 << 10

	// unknownSize is what a package without a size is given in the worst case.
	unknownSize = 64 << 10

	maxObservations = 512
	maxLargest      = 5
)

// The growth of an image per byte of package file. Packages are tar.gz or
// deflate; squashfs packs the same content with xz in blocks of 256 KiB. Of
// 48 Debian packages added to one squashfs, four at a time, each four took
// between 0.79 and 0.87 of their tar.gz's size. Other file systems compress
// with deflate or not at all, and images of theirs may be packed as a whole.
func priorSlope(filesystem string) (slope, deviation float64) {
	if filesystem == "" || filesystem == "squashfs" {
		return 0.83, 0.08
	}
	return 1.0, 0.3
}

// NewForecast tells how large an image of the profile with these packages will
// be, from what finished builds of the target came to. limit is what the
// device takes in bytes, 0 if that is not known. Its verdict is TooBig only if
// the image is above the limit in the best case, and VerdictUnknown without
// limit or observations. The order of observations does not matter.
func NewForecast(w Weight, profile, filesystem string, limit int64, seen []Observation) Forecast {
	f := Forecast{Verdict: VerdictUnknown, Limit: max(limit, 0), Largest: w.Optional[:min(len(w.Optional), maxLargest)]}
	if f.Largest == nil {
		f.Largest = []Sized{}
	}
	m := newModel(filesystem, seen)
	if m == nil || w.Download <= 0 {
		f.Detail = "How large the image will be is not known: this server has built none for this target yet."
		if m != nil {
			f.Detail = "How large the image will be is not known: the package index names no sizes."
		}
		return f
	}
	estimate, deviation := m.predict(profile, float64(w.Download))
	// Packages without a size may be of any; most have some kilobytes.
	spread := max(2*deviation, sector, estimate/100)
	f.Estimate = bytesOf(estimate)
	f.Low, f.High = bytesOf(estimate-spread), bytesOf(estimate+spread+float64(w.Unknown)*unknownSize+float64(w.Hollow))
	f.judge()
	return f
}

func bytesOf(x float64) int64 {
	return int64(math.Round(min(max(x, 0), 1<<52)))
}

// judge compares the estimate with the limit.
func (f *Forecast) judge() {
	about, give := "about "+mebibytes(f.Estimate), ", give or take "+mebibytes(f.High-f.Estimate)
	if f.High-f.Estimate > f.Estimate-f.Low+sector {
		about, give = fmt.Sprintf("between %s and %s", mebibytes(f.Low), mebibytes(f.High)), ""
	}
	if f.Limit == 0 {
		f.Detail = fmt.Sprintf("The image will have %s%s. What the device takes is not known.", about, give)
		return
	}
	size := fmt.Sprintf("The image will have %s of %s%s", about, mebibytes(f.Limit), give)
	f.Over = max(f.Estimate-f.Limit, 0)
	switch {
	case f.Low > f.Limit:
		f.Verdict = TooBig
		f.Detail = fmt.Sprintf("%s: it is too big by about %s.", size, kibibytes(f.Over))
		if len(f.Largest) > 0 {
			f.Detail += fmt.Sprintf(" The largest package beyond the default ones is %s with %s.", f.Largest[0].Name, mebibytes(f.Largest[0].InstalledSize))
		}
	case f.High <= f.Limit:
		f.Verdict = Fits
		f.Detail = size + ": it fits."
	case f.Over > 0 || give == "":
		f.Verdict = Tight
		f.Detail = size + ": it may be too big. Only the build can tell."
	default:
		f.Verdict = Tight
		f.Detail = size + ": it should just fit. Only the build can tell."
	}
}

func mebibytes(n int64) string {
	x := float64(n) / (1 << 20)
	if n < 1<<20 {
		return fmt.Sprintf("%.2f MiB", x)
	}
	return fmt.Sprintf("%.1f MiB", x)
}

func kibibytes(n int64) string { return fmt.Sprintf("%d KiB", (n+1023)/1024) }

// model is the straight line from packages to images: each profile has an
// overhead (kernel, headers, padding), all have the slope in common.
type model struct {
	slope, slopeVariance float64
	profiles             map[string]overhead
	others               overhead // what is assumed of a profile never seen
}

// overhead is a profile's part of the image that is not packages.
type overhead struct {
	value    float64 // bytes
	variance float64
	at       float64 // the download size around which it was seen
}

// newModel learns from the observations of one file system; nil without any.
func newModel(filesystem string, seen []Observation) *model {
	var kept []Observation
	for _, o := range seen {
		if o.Filesystem == filesystem && o.Download > 0 && o.Flash > 0 {
			kept = append(kept, o)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	slices.SortFunc(kept, func(a, b Observation) int {
		return cmp.Or(cmp.Compare(a.Profile, b.Profile), cmp.Compare(a.Download, b.Download), cmp.Compare(a.Flash, b.Flash))
	})
	// Beyond the bound every nth is left out, so that the order stays without
	// influence.
	if n := len(kept); n > maxObservations {
		thinned := make([]Observation, maxObservations)
		for i := range thinned {
			thinned[i] = kept[i*n/maxObservations]
		}
		kept = thinned
	}
	m := &model{profiles: map[string]overhead{}}
	m.fit(filesystem, kept)
	return m
}

// fit finds slope and overheads. Builds that lie far off the line, such as
// those with large files of the user's own, count the less the farther off
// they are (Huber's weights). The noise is taken from what is left over, but
// never less than is assumed.
func (m *model) fit(filesystem string, seen []Observation) {
	prior, deviation := priorSlope(filesystem)
	m.slope = prior
	weights := make([]float64, len(seen))
	for i := range weights {
		weights[i] = 1
	}
	sigma := float64(noise)
	for range 8 {
		// Within each profile, around its own mean.
		var sxx, sxy float64
		for from, to := range profilesOf(seen) {
			x, y, total := means(seen[from:to], weights[from:to])
			if total == 0 {
				continue
			}
			for i := from; i < to; i++ {
				dx := float64(seen[i].Download) - x
				sxx += weights[i] * dx * dx
				sxy += weights[i] * dx * (float64(seen[i].Flash) - y)
			}
		}
		precision := sxx/(sigma*sigma) + 1/(deviation*deviation)
		m.slope = (sxy/(sigma*sigma) + prior/(deviation*deviation)) / precision
		m.slope = min(max(m.slope, prior/4), prior*3)
		m.slopeVariance = 1 / precision

		residuals := make([]float64, 0, len(seen))
		off := make([]float64, len(seen))
		for from, to := range profilesOf(seen) {
			middle := m.overheadOf(seen[from:to])
			for i := from; i < to; i++ {
				off[i] = math.Abs(float64(seen[i].Flash) - m.slope*float64(seen[i].Download) - middle)
				if to-from > 1 {
					residuals = append(residuals, off[i])
				}
			}
		}
		if len(residuals) > 2 {
			sigma = max(noise, 1.4826*median(residuals))
		}
		for i := range weights {
			weights[i] = min(1, 1.5*sigma/max(off[i], 1))
		}
	}
	var values []float64
	x := 0.0
	for from, to := range profilesOf(seen) {
		of := seen[from:to]
		at, _, _ := means(of, weights[from:to])
		n := 0.0
		for _, w := range weights[from:to] {
			n += w * w
		}
		// What one image misses the line by, and by what the line is off.
		o := overhead{value: m.overheadOf(of), variance: sigma * sigma * (1 + 1/max(n, 0.25)), at: at}
		m.profiles[of[0].Profile] = o
		values = append(values, o.value)
		x += at
	}
	middle := median(values)
	away := make([]float64, len(values))
	for i, v := range values {
		away[i] = math.Abs(v - middle)
	}
	between := float64(unlikeProfiles)
	if len(values) >= 4 {
		between = max(unlikeProfiles/3, 1.4826*median(away))
	}
	m.others = overhead{
		value: middle, at: x / float64(len(values)),
		variance: 2*sigma*sigma + between*between*(1+1/float64(len(values))),
	}
}

// overheadOf is the median of what is not explained by packages.
func (m *model) overheadOf(seen []Observation) float64 {
	left := make([]float64, len(seen))
	for i, o := range seen {
		left[i] = float64(o.Flash) - m.slope*float64(o.Download)
	}
	return median(left)
}

// predict returns the image's size for packages of download bytes, and its
// standard deviation.
func (m *model) predict(profile string, download float64) (estimate, deviation float64) {
	o, ok := m.profiles[profile]
	if !ok {
		o = m.others
	}
	away := download - o.at
	return max(o.value+m.slope*download, 0), math.Sqrt(o.variance + away*away*m.slopeVariance)
}

// profilesOf yields the ranges of sorted observations that are of one profile.
func profilesOf(seen []Observation) func(func(from, to int) bool) {
	return func(yield func(int, int) bool) {
		for from := 0; from < len(seen); {
			to := from + 1
			for to < len(seen) && seen[to].Profile == seen[from].Profile {
				to++
			}
			if !yield(from, to) {
				return
			}
			from = to
		}
	}
}

func means(seen []Observation, weights []float64) (x, y, total float64) {
	for i, o := range seen {
		x += weights[i] * float64(o.Download)
		y += weights[i] * float64(o.Flash)
		total += weights[i]
	}
	if total == 0 {
		return 0, 0, 0
	}
	return x / total, y / total, total
}

// median sorts values.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
