package main
type doctorCmd struct{configFlags}
func (*doctorCmd) Run(*program) error { return errTold }
