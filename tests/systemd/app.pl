# An application that knows nothing of a registry: serves a port with a file's content, reads the file again on HUP. Only what it
# says at its end is for the test: how many instances of it the registry lists while it still runs.
use strict;
use warnings;
use IO::Socket::INET;

my ($name, $port, $file) = @ARGV;
$| = 1;

sub content {
    open(my $in, '<', $file) or return "no file: $!";
    my $line = <$in> // '';
    chomp $line;
    return $line;
}

sub listed {
    my $to = IO::Socket::INET->new(PeerAddr => '127.0.0.1:8848', Timeout => 2) or return 'no registry';
    print $to "GET /nacos/v1/ns/instance/list?serviceName=$name HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n";
    my $answer = join '', <$to>;
    my $count = () = $answer =~ /"instanceId"/g;
    return $count;
}

if ($ENV{PID_FILE}) {
    open(my $out, '>', $ENV{PID_FILE}) or die "$ENV{PID_FILE}: $!";
    print $out "$$\n";
    close $out;
}
my $text = content();
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 16, ReuseAddr => 1) or die $!;
print "starts with: $text\n";
$SIG{HUP} = sub { $text = content(); print "read again: $text\n" };
$SIG{TERM} = sub { print 'told to stop while the registry lists ', listed(), "\n"; exit 0 };
while (1) {
    my $client = $listener->accept or next;
    print $client "$text\n";
    close $client;
}
