package feeds

func (u *Universe) solveAPK(Wish) *Solution {
	return &Solution{Doubts: []string{"What apk will select is not foreseen yet."}}
}
