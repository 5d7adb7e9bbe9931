package web

import (
	"net/http"
	"strconv"
	"time"
)

// statusReply is GET /api/v1/status.
type statusReply struct {
	Version       string
	UptimeSeconds int64 `json:"uptime_seconds"`
	Contact       string
	Queue         struct {
		Waiting, Building, Limit, Workers int
		Jobs                              []struct {
			Hash, State, Stage       string
			Position                 int
			ExpectedWaitSeconds      int64 `json:"expected_wait_seconds"`
			Version, Target, Profile string
		}
	}
	Recent []struct {
		Hash                            string
		Version, Target, Profile, State string
		Finished                        string
		Seconds                         float64
		Detail                          string
	}
	Cache struct {
		Images, Used, Budget int64
		Hits, Requests       int64
		HitRate              float64 `json:"hit_rate"`
		SecondsSaved         float64 `json:"seconds_saved"`
	}
	Builders struct{ Used, Budget int64 }
	Disk     struct{ Free, Total, Floor int64 }
	Upstream []struct {
		Distro, URL, Checked string
		AgeSeconds           int64 `json:"age_seconds"`
		Stale                bool
	}
	Warnings []struct{ Code, Detail string }
	Days     []statusDay
}

type statusDay struct {
	Date                             string
	Requests, Hits, Builds, Failures int64
}

type statusPage struct {
	*statusReply
	Unknown  bool
	Saved    string // building time
	Offered  []offeredBranch
	Requests chart
	Builds   chart
}

type offeredBranch struct {
	Name     string
	Versions []string
	Targets  int
}

func (s *Site) status(w http.ResponseWriter, r *http.Request, _ string) {
	ctx, cancel := s.within(r)
	defer cancel()
	p := s.newPage(r, "status", "/status")
	p.Title, p.Script, p.Refresh = p.T("status.title"), "status.js", 60
	d := &statusPage{statusReply: &statusReply{}}
	p.Data = d
	if err := s.get(ctx, r, "/api/v1/status", d.statusReply); err != nil {
		d.Unknown = true
	}
	var o overview
	if err := s.get(ctx, r, "/json/v1/overview.json", &o); err == nil {
		p.notices(&o, s.o.Now())
		for _, b := range o.sorted() {
			d.Offered = append(d.Offered, offeredBranch{b.Name, b.Versions, len(b.Targets)})
		}
	} else {
		p.Notice = p.T("notice.nothing")
	}
	d.Saved = p.T("unit.seconds", "n", 0) // a span that is not nothing has at least 1 s
	if d.Cache.SecondsSaved > 0 {
		d.Saved = p.Whole(d.Cache.SecondsSaved)
	}
	d.Requests = newChart(d.Days, func(day statusDay) (int64, int64) { return day.Requests, day.Hits })
	d.Builds = newChart(d.Days, func(day statusDay) (int64, int64) { return day.Builds + day.Failures, day.Failures })
	part := r.URL.Query().Get("part")
	if part != "live" {
		part = ""
	}
	s.show(w, r, http.StatusOK, "status", part, p)
}

// Clock writes a moment as UTC.
func (p *page) Clock(moment string) string {
	t, err := time.Parse(time.RFC3339Nano, moment)
	if err != nil {
		return moment
	}
	return t.UTC().Format("2006-01-02 15:04") + " UTC"
}

// Percent writes a share.
func (p *page) Percent(share float64) string { return strconv.Itoa(int(share*100+0.5)) + " %" }

// Whole writes seconds that have a fraction.
func (p *page) Whole(seconds float64) string { return p.Seconds(int64(seconds + 0.5)) }

// Share is part of whole in hundredths, for a meter.
func (p *page) Share(part, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	return max(0, min(100, part*100/whole))
}

// chart is days as bars in a drawing of chartWidth by chartHeight; the second
// number of a day is a part of the first and stands within its bar.
type chart struct {
	Bars     []bar
	Top      int64 // what a bar of full height stands for
	Sum, Of  int64
	From, To string
}

type bar struct {
	Date               string
	Whole, Part        int64
	X                  int
	Y, H, PartY, Part2 int // drawing units
}

const chartHeight = 80

func newChart(days []statusDay, of func(statusDay) (whole, part int64)) chart {
	const most = 92
	if len(days) > most {
		days = days[len(days)-most:]
	}
	c := chart{Top: 1}
	for _, d := range days {
		whole, part := of(d)
		c.Top = max(c.Top, whole)
		c.Sum, c.Of = c.Sum+whole, c.Of+part
	}
	for i, d := range days {
		whole, part := of(d)
		b := bar{Date: d.Date, Whole: whole, Part: part, X: i * 10}
		b.H, b.Part2 = height(whole, c.Top), height(part, c.Top)
		b.Y, b.PartY = chartHeight-b.H, chartHeight-b.Part2
		c.Bars = append(c.Bars, b)
	}
	if len(days) > 0 {
		c.From, c.To = days[0].Date, days[len(days)-1].Date
	}
	return c
}

// Width is the drawing's.
func (c chart) Width() int { return max(10, len(c.Bars)*10) }

// height of a bar; what is not nothing can be seen.
func height(n, top int64) int {
	if n <= 0 {
		return 0
	}
	return max(2, int(n*chartHeight/top))
}
