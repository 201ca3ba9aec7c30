// Clients that we did not write, driven from tests/test_clients.py: minio-go, whose plain HTTP bodies are
// signed chunk by chunk (with a signed trailer when asked), and the AWS SDK for Go, whose TLS bodies carry
// an unsigned trailer. Each command prints what it got; any failure ends the program with 1.
//
//	clients minio   ENDPOINT BUCKET KEY FILE [trailer]
//	clients aws     ENDPOINT BUCKET KEY FILE
//
// TWINTREE_ACCESS_KEY and TWINTREE_SECRET_KEY hold the key; CA_FILE, when set, the authority to trust.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awscredentials "github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func main() {
	if len(os.Args) < 6 {
		fail(fmt.Errorf("usage: clients minio|aws ENDPOINT BUCKET KEY FILE [trailer]"))
	}
	body, err := os.ReadFile(os.Args[5])
	check(err)
	transport := trusting(os.Getenv("CA_FILE"))
	switch os.Args[1] {
	case "minio":
		withMinio(transport, os.Args[2], os.Args[3], os.Args[4], body, len(os.Args) > 6)
	case "aws":
		withAws(transport, os.Args[2], os.Args[3], os.Args[4], body)
	default:
		fail(fmt.Errorf("no client %q", os.Args[1]))
	}
}

func withMinio(transport http.RoundTripper, endpoint, bucket, key string, body []byte, trailer bool) {
	address, err := url.Parse(endpoint)
	check(err)
	client, err := minio.New(address.Host, &minio.Options{
		Creds:           credentials.NewStaticV4(os.Getenv("TWINTREE_ACCESS_KEY"), os.Getenv("TWINTREE_SECRET_KEY"), ""),
		Secure:          address.Scheme == "https",
		Transport:       transport,
		TrailingHeaders: trailer,
		Region:          "us-east-1",
	})
	check(err)
	ctx := context.Background()
	exists, err := client.BucketExists(ctx, bucket)
	check(err)
	if !exists {
		check(client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}))
	}
	options := minio.PutObjectOptions{ContentType: "text/x-go", PartSize: 5 << 20, UserMetadata: map[string]string{"Colour": "green"}}
	if trailer {
		options.Checksum = minio.ChecksumCRC32C
	}
	put, err := client.PutObject(ctx, bucket, key, bytes.NewReader(body), int64(len(body)), options)
	check(err)
	object, err := client.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
	check(err)
	back, err := io.ReadAll(object)
	check(err)
	same(body, back)
	for entry := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true, Prefix: key}) {
		check(entry.Err)
		fmt.Println("listed", entry.Key, entry.Size)
	}
	fmt.Println("etag", put.ETag)
}

func withAws(transport http.RoundTripper, endpoint, bucket, key string, body []byte) {
	client := s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		Region:       "us-east-1",
		UsePathStyle: true,
		HTTPClient:   &http.Client{Transport: transport},
		Credentials:  awscredentials.NewStaticCredentialsProvider(os.Getenv("TWINTREE_ACCESS_KEY"), os.Getenv("TWINTREE_SECRET_KEY"), ""),
	})
	ctx := context.Background()
	_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket})
	check(err)
	put, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(body)})
	check(err)
	got, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key, ChecksumMode: "ENABLED"})
	check(err)
	back, err := io.ReadAll(got.Body)
	check(err)
	same(body, back)
	list, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: &key})
	check(err)
	for _, entry := range list.Contents {
		fmt.Println("listed", *entry.Key, *entry.Size)
	}
	fmt.Println("etag", *put.ETag)
}

// trusting gives a transport that trusts the authority in file, or the default one.
func trusting(file string) http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if file != "" {
		pem, err := os.ReadFile(file)
		check(err)
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return transport
}

func same(sent, got []byte) {
	if !bytes.Equal(sent, got) {
		fail(fmt.Errorf("sent %d bytes, got %d others back", len(sent), len(got)))
	}
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
