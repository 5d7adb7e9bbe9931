# Fetches files: with wget where it is installed, else plain http with what
# perl-base has. Codes are wget's: 4 no connection, 5 TLS, 8 HTTP error.
package Sample::Fetch;
use strict;
use warnings;
use Sample::Tree;

# fetch gets URLs into files of a folder: [url, file name]. It returns a hash
# from URL to 0 or a code.
sub fetch {
    my ($folder, @wanted) = @_;
    my (%code, @remote);
    Sample::Tree::make_folder($folder);
    for (@wanted) {
        my ($url, $name) = @$_;
        if (my ($path) = $url =~ m{^(?:file:)(?://)?(/.+)$}) {
            my $data = Sample::Tree::read_file($path);
            $code{$url} = defined $data ? 0 : 1;
            Sample::Tree::write_file("$folder/$name", $data) if defined $data;
        }
        else { push @remote, $_ }
    }
    my $wget = Sample::Tree::in_path('wget');
    @remote = many($folder, \%code, @remote) if $wget && @remote > 1;
    for (@remote) {
        my ($url, $name) = @$_;
        my $part = "$folder/.$name.part";
        $code{$url} = $wget ? one($url, $part) : plain($url, $part);
        if ($code{$url}) { unlink $part }
        else             { rename $part, "$folder/$name" or die "$folder/$name: $!\n" }
    }
    return \%code;
}

# many gets all at once over one connection and returns those that it did not
# get: their codes are asked for one by one.
sub many {
    my ($folder, $code, @wanted) = @_;
    my $into = "$folder/.many.$$";
    mkdir $into or die "$into: $!\n";
    if (my $pid = fork // die "fork: $!\n") { waitpid $pid, 0 }
    else {
        open STDOUT, '>', '/dev/null';
        open STDERR, '>', '/dev/null';
        exec 'wget', '-q', '-t', '1', '-T', '30', '-x', '-P', $into, '--', map { $_->[0] } @wanted;
        exit 127;
    }
    my @left;
    for (@wanted) {
        my ($url, $name) = @$_;
        (my $got = $url) =~ s{^https?://}{};
        if (-f "$into/$got") {
            rename "$into/$got", "$folder/$name" or die "$folder/$name: $!\n";
            $code->{$url} = 0;
        }
        else { push @left, $_ }
    }
    system 'rm', '-rf', $into;
    return @left;
}

sub one {
    my ($url, $file) = @_;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>', '/dev/null';
        exec 'wget', '-q', '-t', '1', '-T', '30', '-O', $file, '--', $url;
        exit 127;
    }
    waitpid $pid, 0;
    return $? >> 8 || ($? ? 1 : 0);
}

sub plain {
    my ($url, $file) = @_;
    my ($host, $port, $path) = $url =~ m{^http://([^/:]+)(?::(\d+))?(/.*)?$} or return 5;
    require IO::Socket::INET;
    my $peer = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port || 80, Timeout => 30) or return 4;
    print $peer 'GET ', $path || '/', " HTTP/1.0\r\nHost: $host", ($port ? ":$port" : ''), "\r\nConnection: close\r\n\r\n";
    my $reply = do { local $/; <$peer> } // '';
    my ($head, $body) = split /\r\n\r\n/, $reply, 2;
    return 4 if !defined $body;
    return 8 if $head !~ m{^HTTP/1\.\d 200};
    return 4 if $head =~ /^Content-Length:\s*(\d+)/mi && length($body) < $1;
    Sample::Tree::write_file($file, $body);
    return 0;
}

1;
