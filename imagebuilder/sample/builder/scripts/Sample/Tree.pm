# The unpacked builder: its configuration, its profiles, its folders.
package Sample::Tree;
use strict;
use warnings;

sub new {
    my ($class, $top) = @_;
    my $self = bless { top => $top }, $class;
    my $config = $self->{config} = {};
    for (split /\n/, read_file("$top/.config") // die "$top/.config: $!\n") {
        $config->{$1} = $2 if /^CONFIG_([^=]+)="?([^"]*)"?$/;
    }
    $self->{$_} = $config->{"TARGET_\U$_"} for qw(board subtarget arch_packages);
    $self->{apk}    = ($config->{USE_APK} // '') eq 'y';
    $self->{target} = "$self->{board}/$self->{subtarget}";
    $self->{epoch}  = $config->{SOURCE_DATE_EPOCH};
    $self->{build}  = "$top/build_dir/target-$self->{arch_packages}_musl";
    $self->{linux}  = "$self->{build}/linux-$self->{board}_$self->{subtarget}";
    $self->{root}   = "$self->{build}/root-$self->{board}";
    $self->{dl}     = "$top/dl";
    $self->{bin}    = length($ENV{BIN_DIR} // '') ? $ENV{BIN_DIR} : "$top/bin/targets/$self->{target}";
    return $self;
}

sub read_file {
    my ($name) = @_;
    open(my $in, '<:raw', $name) or return undef;
    local $/;
    my $data = <$in>;
    return $data // '';
}

sub write_file {
    my ($name, $data, $mode) = @_;
    unlink $name;
    open(my $out, '>:raw', $name) or die "$name: $!\n";
    print $out $data or die "$name: $!\n";
    close($out)      or die "$name: $!\n";
    chmod $mode, $name if defined $mode;
    return;
}

my %made;

sub make_folder {
    my ($name) = @_;
    return if $made{$name} || -d $name;
    my ($parent) = $name =~ m{^(.+)/[^/]+$};
    make_folder($parent) if defined $parent;
    mkdir $name or -d $name or die "$name: $!\n";
    $made{$name} = 1;
    return;
}

sub in_path {
    my ($program) = @_;
    for (split /:/, $ENV{PATH} // '') {
        return "$_/$program" if -x "$_/$program" && !-d _;
    }
    return;
}

# sums returns the SHA-256 of files, by name.
sub sums {
    my %sum;
    while (my @part = splice(@_, 0, 500)) {
        open(my $from, '-|', 'sha256sum', '--', @part) or die "sha256sum: $!\n";
        while (my $line = <$from>) {
            $sum{$2} = $1 if $line =~ /^([0-9a-f]{64})[ ][ *](.+)$/;
        }
        close $from;
    }
    return \%sum;
}

sub stanzas {
    my ($text) = @_;
    my @all;
    for my $part (split /\n\n+/, $text) {
        my (%fields, $last);
        for (split /\n/, $part) {
            if (/^(\S+?):\s*(.*)$/)   { $fields{ $last = $1 } = $2 }
            elsif (/^\s/ && $last)    { $fields{$last} .= "\n$_" }
        }
        push @all, \%fields if %fields;
    }
    return @all;
}

# profiles reads .profiles.mk, which is made from .targetinfo on first use.
sub profiles {
    my ($self) = @_;
    my $made = "$self->{top}/.profiles.mk";
    if (!-e $made) {
        my $info = read_file("$self->{top}/.targetinfo") // '';
        my $text = join '', map { "$_\n" } grep { /^(Default-Packages|Target-Profile[^:]*):/ } split /\n/, $info;
        if (open(my $out, '>', $made)) { print $out $text; close $out }
        else                           { print STDERR "$made: $!\n" }
    }
    my (@all, $now);
    for (split /\n/, read_file($made) // '') {
        if    (/^Default-Packages: (.*)/)               { $self->{defaults} = [ split ' ', $1 ] }
        elsif (/^Target-Profile: DEVICE_(.+)/)          { push @all, $now = { id => $1, packages => [], devices => [] } }
        elsif (/^Target-Profile-Name: (.+)/)            { $now->{name}     = $1 }
        elsif (/^Target-Profile-Packages: ?(.*)/)       { $now->{packages} = [ split ' ', $1 ] }
        elsif (/^Target-Profile-hasImageMetadata: (.)/) { $now->{metadata} = $1 }
        elsif (/^Target-Profile-SupportedDevices: (.+)/){ $now->{devices}  = [ split ' ', $1 ] }
    }
    return @all;
}

# profile is the wanted one, or the target's first.
sub profile {
    my ($self) = @_;
    my @all = $self->profiles;
    my $want = $ENV{PROFILE} // '';
    return $all[0] if $want eq '';
    $want =~ s/^DEVICE_//;
    for (@all) { return $_ if $_->{id} eq $want }
    return;
}

sub device {
    my ($self) = @_;
    my $id = $self->profile->{id};
    for (stanzas(read_file("$self->{top}/target/linux/$self->{board}/image/$self->{subtarget}.devices") // '')) {
        return $_ if $_->{Device} eq $id;
    }
    die "no device $id\n";
}

sub help {
    my ($self) = @_;
    my $text = read_file("$self->{top}/include/help.txt");
    $text =~ s/^.*ROOTFS_FILESYSTEM.*\n//m if !$self->{apk};
    print $text;
    return 0;
}

sub info {
    my ($self) = @_;
    my @all = $self->profiles;
    print qq(Current Target: "$self->{target}"\n);
    print qq(Current Architecture: "$self->{config}{ARCH}"\n);
    print qq(Current Revision: "$self->{config}{VERSION_CODE}"\n);
    print 'Default Packages: ', join(' ', @{ $self->{defaults} // [] }), "\nAvailable Profiles:\n";
    for (@all) {
        print "\n$_->{id}:\n";
        print "    $_->{name}\n" if $_->{name};
        print '    Packages: ', join(' ', @{ $_->{packages} }), "\n";
        print "    hasImageMetadata: $_->{metadata}\n";
        print '    SupportedDevices: ', join(' ', @{ $_->{devices} }), "\n" if @{ $_->{devices} };
    }
    return 0;
}

sub check_profile {
    my ($self) = @_;
    return 0 if $self->profile;
    print qq(Profile "$ENV{PROFILE}" does not exist!\nUse "make info" to get a list of available profile names.\n);
    return 1;
}

# filesystems are the ones that are compiled in.
sub filesystems {
    my ($self) = @_;
    my %is = (SQUASHFS => 'squashfs', EXT4FS => 'ext4', TARGZ => 'targz');
    return map { $is{$_} } grep { ($self->{config}{"TARGET_ROOTFS_$_"} // '') eq 'y' } qw(SQUASHFS EXT4FS TARGZ);
}

# wanted_filesystem is ROOTFS_FILESYSTEM, which only the apk generation knows.
sub wanted_filesystem {
    my ($self) = @_;
    return $self->{apk} && length($ENV{ROOTFS_FILESYSTEM} // '') ? $ENV{ROOTFS_FILESYSTEM} : undef;
}

sub check_rootfs_filesystem {
    my ($self) = @_;
    my $want = $self->wanted_filesystem // return 0;
    return 0 if grep { $_ eq $want } $self->filesystems;
    print qq(Filesystem "$want" is not available!\nAvailable filesystems: ), join(' ', $self->filesystems), "\n";
    return 1;
}

sub need_package {
    my ($self, $step) = @_;
    return 0 if length($ENV{PACKAGE} // '');
    print "Variable `PACKAGE` is not set but required by `$step`\n";
    return 1;
}

sub prerequisites {
    my ($self) = @_;
    my @missing;
    print "Checking 'true'... ok.\nChecking 'working-make'... ok.\n";
    if (umask() & 0755) {
        print "Checking 'proper-umask'... failed.\n";
        push @missing, 'Please build with umask 022 - other values produce broken packages';
    }
    else { print "Checking 'proper-umask'... ok.\n" }
    for my $program (qw(tar cp rm gzip sha256sum perl)) {
        my $ok = in_path($program);
        print "Checking '$program'... ", ($ok ? 'ok.' : 'failed.'), "\n";
        push @missing, "Please install '$program'" if !$ok;
    }
    if (@missing) {
        print "\nBuild dependency: $_\n" for @missing;
        print "\nPrerequisite check failed. Use FORCE=1 to override.\n";
        return 1;
    }
    make_folder("$self->{top}/staging_dir/host");
    write_file("$self->{top}/staging_dir/host/.prereq-build", '');
    return 0;
}

# packages is what is to be installed, in the real one's order: the user's
# words first, then the sorted defaults.
sub packages {
    my ($self) = @_;
    my $profile = $self->profile;
    my %seen;
    my @build = grep { !$seen{$_}++ } sort @{ $self->{defaults} }, 'kernel', @{ $profile->{packages} };
    my $without = sub {
        my %gone = map { substr($_, 1) => 1 } grep { /^-/ } @_;
        return grep { !/^-/ && !$gone{$_} } @_;
    };
    @build = $without->(@build);
    return $without->(split(' ', $ENV{PACKAGES} // ''), @build);
}

sub announce {
    my ($self) = @_;
    my $profile = $self->profile;
    print "Building images for $self->{board}", ($profile->{name} ? " - $profile->{name}" : ''), "\n";
    print 'Packages: ', join(' ', $self->packages), "\n\n";
    return 0;
}

sub wipe {
    my ($self) = @_;
    system('rm', '-rf', $self->{root}, "$self->{root}.orig") if -e $self->{root} || -e "$self->{root}.orig";
    %made = ();
    make_folder($_) for $self->{root}, $self->{dl}, "$self->{top}/tmp";
    return 0;
}

sub clean {
    my ($self) = @_;
    return system('rm', '-rf', '--', "$self->{top}/tmp", $self->{dl}, $self->{bin}, $self->{root}) ? 1 : 0;
}

1;
